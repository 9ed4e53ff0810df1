// What lies where in a replica's pool.
#pragma once

#include <cstddef>
#include <cstdint>

#include "pool.hpp"

namespace mpaxos {

inline constexpr char kPoolMagic[8] = {'m', 'P', 'a', 'x', 'P', 'o', 'o', 'l'};
inline constexpr char kPoolLayout[] = "mpaxos";
inline constexpr std::uint32_t kPoolFormat = 3;

// Written once, at creation.
struct PoolHeader {
  char magic[8];
  std::uint32_t format;
  std::uint32_t replica;
  std::uint8_t cluster[16];
  std::uint64_t size;  // of the file
  std::uint64_t log_size;
  std::uint64_t log_offset;  // pool offset of the ring
  std::uint64_t journal_size;  // of the undo journal (journal.hpp), which follows the ring
  PoolLimits limits;
  std::uint32_t replicas;
  char machine[256];
  std::uint32_t crc;  // CRC-32C of all before
};

// The promise. The cell that `PoolRoot::promise_word` names is the valid one; the other is written
// first, then the word is switched, so a crash cannot leave an invalid promise behind: one that
// does not match its checksum is corrupt.
struct PromiseCell {
  std::uint64_t counter;
  std::uint64_t round;
  std::uint32_t leader;
  std::uint32_t crc;
  std::uint8_t reserved[40];
};
static_assert(sizeof(PromiseCell) == 64);

// Fills a cache line behind what takes `Size` bytes of it.
template <std::size_t Size>
using Rest = std::uint8_t[64 - Size % 64];

// Parts that change apart lie 64 bytes apart. They cannot be alignas(64): libpmemobj gives the root
// object an address that is a multiple of 16, and the compiler would be promised more.
struct PoolRoot {
  PoolHeader header;
  Rest<sizeof(PoolHeader)> rest0;
  PromiseCell promises[2];
  Word promise_word;  // counter of the valid promise
  Rest<sizeof(Word)> rest1;
  Word tail;  // of the log, in units of 64 bytes since creation
  Rest<sizeof(Word)> rest2;
  Word head;
  Rest<sizeof(Word)> rest3;
  Word truncated;  // slots up to here are given up
  Rest<sizeof(Word)> rest4;
  EngineRoot engine;
};
static_assert(alignof(PoolRoot) <= 16);
static_assert(offsetof(PoolRoot, promises) == 384 && offsetof(PoolRoot, promise_word) == 512 &&
              offsetof(PoolRoot, tail) == 576 && offsetof(PoolRoot, engine) == 768);

inline constexpr std::uint64_t kUnit = 64;

// Before each batch in the log.
struct RecordHeader {
  std::uint32_t magic;
  std::uint32_t length;  // of the batch in bytes; a skip record fills the end of the ring
  std::uint64_t slot;
  std::uint64_t round;
  std::uint32_t leader;
  std::uint32_t reserved;
  std::uint64_t time;
  std::uint64_t digest;  // of the batch
  std::uint64_t position;  // units since creation: tells a record from one of an earlier lap
  std::uint32_t reserved2;
  std::uint32_t crc;  // CRC-32C of the 60 bytes before
};
static_assert(sizeof(RecordHeader) == kUnit);

inline constexpr std::uint32_t kRecordMagic = 0x3152506d;  // "mPR1"
inline constexpr std::uint32_t kSkipMagic = 0x3153506d;    // "mPS1"

Word make_word(std::uint64_t value);
// Throws kStorageCorrupt, naming `what`, when the checksum does not fit.
std::uint64_t read_word(const Word& word, const char* what);

}  // namespace mpaxos
