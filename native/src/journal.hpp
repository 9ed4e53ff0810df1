// An undo journal for what one slot overwrites in place: old contents, gathered before the slot
// begins to write, made durable by a single fence. libpmemobj's transactions can do the same, but
// need a fence for each range; with two ranges per command that was half the cost of applying.
//
//   begin(slot)   remember(...) ...   seal()          old contents are durable
//   changes in place, flushed; a fence; then the applied position says `slot`; a fence
//   clear()                                         so that later damage is not taken for a crash
//
// The applied position decides: after a crash the journal is undone when it is of the slot after
// the applied one, or when the position itself, which is remembered, too, was torn. What a slot
// allocates or frees goes into a transaction of libpmemobj, which then changes the position and
// clears the journal as well: its recovery runs first, and leaves what the journal goes by.
#pragma once

#include <libpmemobj.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "pool.hpp"

namespace mpaxos {

class Journal {
 public:
  // `area`: `size` bytes of the pool, zero at its creation.
  Journal(PMEMobjpool* pool, char* area, std::uint64_t size)
      : pool_(pool), area_(area), size_(size) {}

  void begin(std::uint64_t slot);
  // Keeps the present contents of [data, data + size), which begin at an address that is not
  // remembered yet. When the journal is full nothing happens: holds() stays false.
  void remember(const void* data, std::size_t size);
  void seal();
  // Whether what begins at `data` was remembered for the present slot.
  bool holds(const void* data) const {
    if (data != asked_) {  // it is asked for in turns: before a change, and after
      asked_ = data;
      held_ = place_of(offset_of(data)).generation == generation_;
    }
    return held_;
  }
  // Changed in place: flush_written() sends it on its way to the memory, if not earlier. Replies of
  // a session are written one after the other, and two of them share a line: to write to a line
  // that is on its way waits for it.
  void written(const void* data, std::size_t size);
  void flush_written();
  // The slot is applied, durably: nothing is to be undone any more, durable on return.
  void clear();
  // Takes back what the present slot has overwritten so far: it is to be applied anew.
  void take_back();
  // The word that clear() sets to zero, for a transaction that does it.
  std::uint64_t& slot_word() { return *reinterpret_cast<std::uint64_t*>(area_); }

  // After a crash: takes back what a slot that was not finished has overwritten. Throws
  // kStorageCorrupt when journal and position cannot belong together.
  void recover(AppliedRoot& applied);

 private:
  struct Header {
    std::uint64_t slot;    // 0: nothing to undo
    std::uint64_t length;  // of the entries
    std::uint64_t check;   // XXH3 of the entries, seeded with the two above
    std::uint64_t reserved;
  };
  struct Entry {
    std::uint64_t offset;  // in the pool; the old contents follow, filled up to 8 bytes
    std::uint64_t length;
  };
  struct Known {
    std::uint64_t offset;
    std::uint64_t generation;
  };

  // Lines of memory [begin, end), counted from address 0.
  struct Lines {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    // Takes in lines that overlap or continue these.
    bool join(const Lines& other) {
      if (begin == end || other.begin > end || other.end < begin) return false;
      begin = std::min(begin, other.begin);
      end = std::max(end, other.end);
      return true;
    }
  };

  static constexpr std::uintptr_t kLine = 64;
  static constexpr std::size_t kSmallestBuffer = 4096;

  std::uint64_t offset_of(const void* data) const;
  Known& place_of(std::uint64_t offset) const;
  void grow();
  static std::uint64_t check_of(const Header& header, const char* entries);
  void undo(const Header& header);
  void flush(const Lines& lines) const;

  PMEMobjpool* pool_;
  char* area_;
  std::uint64_t size_;
  // Header and entries of the present slot: so many bytes. Its size only grows, or each entry would
  // be zeroed before it is written.
  std::vector<char> buffer_ = std::vector<char>(kSmallestBuffer);
  std::size_t used_ = 0;
  mutable std::vector<Known> known_ = std::vector<Known>(1024);  // by open addressing
  std::size_t count_ = 0;
  std::uint64_t generation_ = 0;
  mutable const void* asked_ = nullptr;  // what holds() was asked for last
  mutable bool held_ = false;
  Lines recent_, older_;  // written, not flushed: an item's and a reply's, in turns
};

// Bytes that a pool of this size keeps for the journal: commands that overwrite more in one slot
// are undone by libpmemobj.
std::uint64_t journal_size(std::uint64_t pool_size);

}  // namespace mpaxos
