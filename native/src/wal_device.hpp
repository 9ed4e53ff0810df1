// The seam between the write-ahead log and its files, so that tests can see each write and sync,
// make them fail, and put together what a power cut leaves.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace mpaxos {

class WalDevice {
 public:
  virtual ~WalDevice() = default;
  // All throw Error(kStorage) when the device fails.
  virtual void write(std::uint32_t file, std::uint64_t offset, std::string_view bytes) = 0;
  virtual void sync(std::uint32_t file) = 0;
  virtual void read(std::uint32_t file, std::uint64_t offset, char* into, std::uint64_t size) = 0;
  // Drops clean cached pages, so that the next read shows what the device holds: after a failed
  // write-back the cache shows data that the device does not have.
  virtual void forget(std::uint32_t file, std::uint64_t offset, std::uint64_t size) = 0;
  virtual std::uint64_t size(std::uint32_t file) = 0;
};

// Path of a file of the log in `directory`.
std::string wal_file_path(const std::string& directory, std::uint32_t file);

// Opens `files` files. Throws kStorageMissing.
std::unique_ptr<WalDevice> open_wal_files(const std::string& directory, std::uint32_t files);

// One call of a traced device: 'w' (write) or 's' (sync).
struct WalCall {
  char what;
  std::uint32_t file;
  std::uint64_t offset;
  std::string bytes;
};

// Notes each write and sync before it passes it on, and fails where it is told to.
class WalTrace : public WalDevice {
 public:
  explicit WalTrace(std::unique_ptr<WalDevice> device) : device_(std::move(device)) {}
  void write(std::uint32_t file, std::uint64_t offset, std::string_view bytes) override;
  void sync(std::uint32_t file) override;
  void read(std::uint32_t file, std::uint64_t offset, char* into, std::uint64_t size) override;
  void forget(std::uint32_t file, std::uint64_t offset, std::uint64_t size) override;
  std::uint64_t size(std::uint32_t file) override { return device_->size(file); }

  // The calls since the last time.
  std::vector<WalCall> take();
  // Lets `calls` more calls pass; the next one fails, those after it pass again.
  void fail_after(std::int64_t calls);

 private:
  void note(WalCall call);

  std::unique_ptr<WalDevice> device_;
  std::mutex mutex_;
  std::vector<WalCall> calls_;
  std::int64_t until_failure_ = -1;
};

struct WalSpec {
  std::string path;  // of the directory, which must not exist
  std::uint8_t cluster[16];
  std::uint32_t replica;
  std::uint32_t files;
  std::uint64_t segment_size;
};

// Creates a log so that a crash leaves all of it or nothing. Throws kStorageForeign (something is
// there), kStorageFull, kConfig (sizes).
void create_wal(const WalSpec& spec);

}  // namespace mpaxos
