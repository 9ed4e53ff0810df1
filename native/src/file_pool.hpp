// Creating, opening and verifying the pool file of one replica.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "journal.hpp"
#include "log.hpp"
#include "pool.hpp"
#include "pool_layout.hpp"
#include "reserve.hpp"
#include "tx.hpp"

namespace mpaxos {

struct PoolSpec {
  std::string path;
  std::uint64_t size;
  std::uint64_t log_size;
  std::array<std::uint8_t, 16> cluster;
  std::uint32_t replica;
  std::uint32_t replicas;
  std::string machine;
  PoolLimits limits;
  std::uint64_t installation;  // bytes of zeroed state to install an image with; 0: none
  Pages pages;
};

struct Promise {
  std::uint64_t round;
  std::uint32_t leader;
};

class FilePool : public Pool {
 public:
  // Makes a complete pool under a temporary name and renames it. Throws kStorageForeign when
  // something has the name, kStorageFull when there is no room.
  static void create(const PoolSpec& spec);

  // Opens and verifies everything but the state machine's items (verified when they are read).
  // A pool that an image is being installed in is refused with kStorageIncomplete, unless
  // `installing`.
  FilePool(const std::string& path, const std::array<std::uint8_t, 16>& cluster,
           std::uint32_t replica, std::uint64_t size, bool installing = false);
  ~FilePool() override;
  FilePool(const FilePool&) = delete;
  FilePool& operator=(const FilePool&) = delete;

  PMEMobjpool* handle() override;
  std::uint64_t size() const override { return root_->header.size; }
  EngineRoot& engine_root() override { return root_->engine; }
  const PoolLimits& limits() const override { return root_->header.limits; }
  Journal& journal() override { return *journal_; }
  std::uint64_t block_begin() const override;
  const PoolHeader& header() const { return root_->header; }
  Log& log() { return *log_; }
  Promise promised() const { return promised_; }
  bool is_pmem() const { return is_pmem_; }
  // The state lives elsewhere, in a scratch pool, and is made durable by snapshots: here are the
  // promise and the log alone.
  bool log_only() const { return root_->header.limits.max_sessions == 0; }

  // Durable on return, in this order: promise, records, truncation. All or nothing as far as
  // room is concerned.
  void write(const std::optional<Promise>& promise, const std::vector<RecordIn>& records,
             std::uint64_t truncate_upto);
  // Of a pool for a log only: records up to here are decided. Only ever too low.
  std::uint64_t decided_upto() const;
  void write_decided(std::uint64_t upto);
  void close();

  // An image is being installed (image_target.hpp); nothing else may be done with the pool.
  bool installing() const { return root_ != nullptr && root_->engine.installing.bits != 0; }
  // The log begins after `slot`. To be followed by commit and reload().
  void end_installing(Transaction& tx, std::uint64_t slot, const std::optional<Promise>& promise);
  void reload();

 private:
  void verify_header(const std::array<std::uint8_t, 16>& cluster, std::uint32_t replica,
                     std::uint64_t size);
  void load_promise();
  PromiseCell next_promise(const Promise& promise) const;
  void write_promise(const Promise& promise);

  std::string path_;
  PMEMobjpool* pool_ = nullptr;
  PoolRoot* root_ = nullptr;
  std::optional<Log> log_;
  std::optional<Journal> journal_;
  Promise promised_{};
  std::uint64_t promise_counter_ = 0;
  bool is_pmem_ = false;
};

}  // namespace mpaxos
