// The write-ahead log on disk: what lies where, and why what is read back can be believed.
// The same for people: docs/storage-disk.md.
//
// A log is a directory of `files` files of equal size, all of their blocks written once at
// creation. *Segments* are numbered from 1; segment n lies in file (n - 1) % files and takes the
// place of segment n - files. A segment is a header in the first block, then *groups* of records.
// A group is what one write and one fdatasync made durable. It begins at a multiple of kWalBlock
// and fills whole blocks, so a block that was acknowledged is never written again before its
// segment is reused.
//
// Rules of writing, on which the rules of reading rest:
//   W1  One group at a time: the next is written only after the fdatasync of the one before.
//   W2  Each record carries its sequence number (without gaps, never reused for something that
//       was durable) and how far the log was durable when it was written (sequence - unsynced).
//   W3  The header of segment n + 1 is written, alone, after all of segment n is durable, and is
//       durable before the first group of n + 1 is written. It is smaller than a sector.
//   W4  Whoever opens the log makes durable what it found, drops what it did not accept, and writes
//       a record kWalOpened with a higher generation before any other.
//   W5  Nothing is acknowledged before the fdatasync that covers it has returned. After a failed
//       write or fdatasync nothing is written any more: the kernel may have dropped the pages and
//       marked them clean, so that a second fdatasync would succeed and mean nothing.
//
// Rules of reading. Segments are read from the oldest needed (the newest header names it) to the
// newest; each record must have the next sequence number, the present generation (a record
// kWalOpened: a higher one), and fit its checksums. The first place where that fails ends the
// segment:
//   R1  In any segment but the newest the end must come exactly at the sequence number with
//       which the header of the next begins; otherwise the log is *corrupt* (W3: that segment was
//       durable as a whole).
//   R2  In the newest segment, let e be the sequence number that was expected. If any valid record
//       header further on says that the log was durable up to e or beyond, then record e was
//       durable, perhaps acknowledged: the log is *corrupt*.
//   R3  Otherwise it is a *torn tail*: record e and all that follows are dropped.
// Why a torn tail was never acknowledged, as long as the device keeps what it synced: suppose a
// power cut left record e unreadable. If its fdatasync had returned, its blocks would be there
// (they are not written again), so e belongs to the last group, the one in flight (W1), and nothing
// of that group was acknowledged (W5). The sectors of that group may have reached the disk in any
// order, so valid records may follow a torn one; they say "durable up to before this group" (W2)
// and do not make R2 fire. What they must not do is come to life later, behind other records that
// take their sequence numbers: their generation is too low for that (W4).
// A device that loses or rots what it synced is caught by R1, R2 and the headers, with one
// exception that no log can avoid: damage to the very last group looks like a torn one. The
// record kWalClosed of an orderly end, and the record kWalOpened of each start, put all that came
// before them under the protection of R2.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace mpaxos {

inline constexpr char kWalMagic[8] = {'m', 'P', 'a', 'x', 'W', 'A', 'L', '\0'};
inline constexpr std::uint32_t kWalFormat = 1;
inline constexpr std::uint64_t kWalBlock = 4096;  // whole device sectors, of 512 or 4096 bytes
inline constexpr std::uint64_t kWalUnit = 64;     // records begin at multiples of it
inline constexpr std::uint64_t kWalSmallest = 64 << 10;  // of a segment
inline constexpr std::uint32_t kWalFewest = 3;           // files: present, next, reserve
inline constexpr std::uint32_t kWalMost = 65536;

// Little-endian, as all of the formats.
struct SegmentHeader {
  char magic[8];
  std::uint32_t format;
  std::uint32_t replica;
  std::uint8_t cluster[16];
  std::uint64_t log;  // random, one for all files of a log
  std::uint32_t file;
  std::uint32_t files;
  std::uint64_t size;     // of each file
  std::uint64_t segment;  // from 1; 0: this file was never used
  std::uint64_t oldest;   // segment with which reading has to begin
  std::uint64_t first;    // sequence number of the first record of this segment
  // The state before that record:
  std::uint64_t round;
  std::uint64_t truncated;
  std::uint32_t leader;
  std::uint32_t generation;
  std::uint32_t reserved;
  std::uint32_t crc;  // CRC-32C of all before
};
static_assert(sizeof(SegmentHeader) == 112);

enum WalKind : std::uint8_t {
  kWalPromise = 1,   // round, leader
  kWalRecord = 2,    // slot, round, leader, time, digest; the batch follows
  kWalTruncate = 3,  // slot: records up to here are given up
  kWalOpened = 4,
  kWalClosed = 5,
  kWalDecided = 6,  // slot: records up to here are decided; only ever too low
};

inline constexpr std::uint8_t kWalLast = 1;  // flag: the last of its group

struct WalHeader {
  std::uint16_t magic;
  std::uint8_t kind;
  std::uint8_t flags;
  std::uint32_t length;  // of the batch
  std::uint64_t sequence;
  std::uint64_t slot;
  std::uint64_t round;
  std::uint64_t time;
  std::uint64_t digest;  // XXH3-64 of the batch
  std::uint32_t generation;
  std::uint32_t unsynced;  // sequence - unsynced was durable when this was written
  std::uint32_t leader;
  std::uint32_t crc;  // CRC-32C of the 60 bytes before, begun with the salt of the log
};
static_assert(sizeof(WalHeader) == kWalUnit);

inline constexpr std::uint16_t kWalRecordMagic = 0x5270;  // "pR"

constexpr std::uint64_t wal_round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

// Bytes that a record with a batch of `length` bytes takes.
constexpr std::uint64_t wal_record_size(std::uint64_t length) {
  return kWalUnit + wal_round_up(length, kWalUnit);
}

// Checksums of records begin with this, so that nothing that a client sends can look like a record
// of this log: the log's number is random and told to nobody.
std::uint32_t wal_salt(const SegmentHeader& header);
std::uint32_t wal_crc(const SegmentHeader& header);
std::uint32_t wal_crc(const WalHeader& header, std::uint32_t salt);

}  // namespace mpaxos
