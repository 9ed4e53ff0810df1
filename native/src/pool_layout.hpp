// What lies where in a replica's pool.
#pragma once

#include <cstdint>

#include "pool.hpp"

namespace mpaxos {

inline constexpr char kPoolMagic[8] = {'m', 'P', 'a', 'x', 'P', 'o', 'o', 'l'};
inline constexpr char kPoolLayout[] = "mpaxos";
inline constexpr std::uint32_t kPoolFormat = 1;

// Written once, at creation.
struct PoolHeader {
  char magic[8];
  std::uint32_t format;
  std::uint32_t replica;
  std::uint8_t cluster[16];
  std::uint64_t size;  // of the file
  std::uint64_t log_size;
  std::uint64_t log_offset;  // pool offset of the ring
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

struct alignas(64) PoolRoot {
  PoolHeader header;
  alignas(64) PromiseCell promises[2];
  alignas(64) Word promise_word;  // counter of the valid promise
  alignas(64) Word tail;          // of the log, in units of 64 bytes since creation
  alignas(64) Word head;
  alignas(64) Word truncated;  // slots up to here are given up
  alignas(64) EngineRoot engine;
};

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
