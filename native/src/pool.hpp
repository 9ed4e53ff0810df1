// One replica's persistent memory: a libpmemobj pool with everything the replica must not lose.
#pragma once

#include <libpmemobj.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "batch.hpp"

namespace mpaxos {

inline constexpr std::size_t kMaxContainers = 64;

// The position of the state machine; changed only inside the transaction that changes the state.
struct AppliedRoot {
  std::uint64_t slot;        // applied_upto
  std::uint64_t digest;      // running digest
  std::uint64_t time;        // largest time stamp, ns since the epoch
  std::uint64_t state_used;  // bytes counted against state_limit
  std::uint64_t sessions;    // number of open sessions
  std::uint64_t reply_slots; // sum of their windows
  std::uint64_t reserved;
  std::uint32_t reserved2;
  std::uint32_t crc;         // CRC-32C of the 60 bytes before
};
static_assert(sizeof(AppliedRoot) == 64);

struct ContainerRoot {
  char name[64];        // zero-terminated; empty: unused
  std::uint64_t tree;   // pool offset of the tree's root node; 0: empty
  std::uint64_t count;  // number of items
  std::uint64_t check;  // XXH3 of all before; 0 when unused
  std::uint64_t reserved[5];
};
static_assert(sizeof(ContainerRoot) == 128);

// A 48-bit number with 16 bits of checksum: written by one 8-byte store, so never torn.
struct Word {
  std::uint64_t bits;
};

// The applied position is written by the thread that applies and read by the one that tells about
// it. Each number is right by itself; that they belong together, only the writer's thread can tell.
inline std::uint64_t load_shared(const std::uint64_t& number) {
  return __atomic_load_n(&number, __ATOMIC_ACQUIRE);
}
inline void store_shared(std::uint64_t& number, std::uint64_t value) {
  __atomic_store_n(&number, value, __ATOMIC_RELEASE);
}

// What the engine keeps in the pool's root object.
struct EngineRoot {
  AppliedRoot applied;
  std::uint64_t session_table;  // pool offset of an array of max_sessions pool offsets
  Word installing;  // pool offset of an Installation (image_target.hpp); all 0: none, as usual
  Word decided;  // of a pool for a log only: records up to here are decided, if not more; or 0
  std::uint64_t reserved[5];
  ContainerRoot containers[kMaxContainers];
};

// Limits written at creation, never changed.
struct PoolLimits {
  std::uint64_t state_limit;
  std::uint64_t max_sessions;
  std::uint64_t max_reply_slots;
};

// Classes of allocations for the branches and items of trees (tree.hpp), without the header that
// libpmemobj puts before others: that would be written for its own sake, into a line of memory that
// is in no cache yet, and with it the smallest allocation has 128 bytes. Up to 128 bytes there is a
// class for every 16, so that small items do not take much more than they are counted with
// (kItemOverhead); above, one for each number of lines, so that none begins or ends in another's.
// Of each class some blocks are filled in part, a MiB of them after many items were removed: in a
// small pool larger items share libpmemobj's classes.
inline constexpr unsigned kFirstClass = 128;  // the first that a program may define
inline constexpr unsigned kClasses = 7 + 30;
inline constexpr std::size_t kSmallUnit = 128;
inline constexpr std::size_t kLargestUnit = 2048;
inline constexpr std::uint64_t kSmallPool = 256 << 20;
constexpr std::size_t unit_size(unsigned number) {
  return number < 7 ? 32 + std::size_t{16} * number : kSmallUnit + std::size_t{64} * (number - 6);
}
// As libpmemobj's flags name the class; 0: one of its own.
constexpr std::uint64_t allocation_kind(std::size_t size, std::uint64_t pool_size) {
  if (size > (pool_size < kSmallPool ? kSmallUnit : kLargestUnit)) return 0;
  const auto number = size <= 32           ? 0
                      : size <= kSmallUnit ? (size - 32 + 15) / 16
                                           : 6 + (size - kSmallUnit + 63) / 64;
  return POBJ_CLASS_ID(kFirstClass + number);
}
static_assert(unit_size(kClasses - 1) == kLargestUnit);
static_assert(allocation_kind(kLargestUnit, kSmallPool) ==
              POBJ_CLASS_ID(std::uint64_t{kFirstClass} + kClasses - 1));
inline constexpr std::size_t kBranchSize = 32;
inline constexpr std::uint64_t kBranchKind = allocation_kind(kBranchSize, 0);

class Journal;

class Pool {
 public:
  virtual ~Pool() = default;
  virtual PMEMobjpool* handle() = 0;
  virtual std::uint64_t size() const = 0;  // bytes of the file: every offset is below it
  virtual EngineRoot& engine_root() = 0;
  virtual const PoolLimits& limits() const = 0;
  virtual Journal& journal() = 0;
  // An offset at which one of libpmemobj's blocks of memory begins.
  virtual std::uint64_t block_begin() const = 0;
  // How often the state has been packed (pack.hpp) since the pool was opened.
  std::atomic<std::uint64_t> packings = 0;
};

}  // namespace mpaxos
