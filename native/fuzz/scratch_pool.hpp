// A pool for a fuzz target, in a directory of its own: on tmpfs, or where MPAXOS_FUZZ_DIR says, so
// that scripts can clean up after a crash.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "file_pool.hpp"

namespace mpaxos::fuzz {

inline constexpr std::uint64_t kPoolSize = 16U << 20;  // the least a cluster file may name
inline constexpr std::uint64_t kLogSize = 64U << 10;
inline constexpr PoolLimits kPoolLimits = {2U << 20, 8, 48};

// Removes its directory when it goes, also at exit() after libFuzzer's last run.
class ScratchPool {
 public:
  ScratchPool();
  ~ScratchPool();
  ScratchPool(const ScratchPool&) = delete;
  ScratchPool& operator=(const ScratchPool&) = delete;
  const std::string& path() const { return path_; }
  std::unique_ptr<FilePool> open() const;

 private:
  std::string directory_;
  std::string path_;
};

// One entry of a batch, and a batch of such.
struct Request {
  std::uint64_t session;
  std::uint64_t sequence;
  std::uint64_t lowest;
  EntryKind kind;
  std::string payload;
};
BatchPtr batch_of(const std::vector<Request>& requests, std::uint64_t number);

// Requests of the key-value service.
std::string put(std::string_view key, std::string_view value);
std::string get(std::string_view key);
std::string erase(std::string_view key);
std::string scan(std::uint32_t limit);

}  // namespace mpaxos::fuzz
