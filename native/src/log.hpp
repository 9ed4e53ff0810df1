// The log ring in a pool: accepted batches, appended with one fence for the data and one 8-byte
// store that makes them count. No transaction is involved.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "pool_layout.hpp"

namespace mpaxos {

struct RecordIn {
  std::uint64_t slot;
  std::uint64_t round;
  std::uint32_t leader;
  std::uint64_t time;
  BatchPtr batch;
};

struct RecordOut {
  std::uint64_t round;
  std::uint32_t leader;
  std::uint64_t time;
  BatchPtr batch;
};

class Log {
 public:
  // Verifies every record between head and tail. Throws kStorageCorrupt.
  Log(PMEMobjpool* pool, PoolRoot& root);

  // Throws kStorageFull unless all of `records` fit.
  void check_room(const std::vector<RecordIn>& records) const;
  // Appends all or nothing: throws kStorageFull before anything is written.
  void append(const std::vector<RecordIn>& records);
  // Gives up records of slots up to `upto`.
  void truncate(std::uint64_t upto);
  // The newest record of `slot`, verified; nothing when there is none.
  std::optional<RecordOut> read(std::uint64_t slot) const;
  // (slot, round, leader) of the newest record of each slot that is not given up.
  std::vector<std::tuple<std::uint64_t, std::uint64_t, std::uint32_t>> slots() const;

  std::uint64_t truncated_upto() const { return truncated_; }
  std::uint64_t capacity() const { return units_ * kUnit; }
  std::uint64_t used() const { return (tail_ - head_) * kUnit; }
  // Bytes that records of at most a sixteenth of the ring may take together, each counted with
  // its length rounded up to 64 plus 64.
  std::uint64_t room() const;

 private:
  struct Known {
    std::uint64_t position;
    std::uint64_t round;
    std::uint32_t leader;
  };
  struct Span {
    std::uint64_t slot;  // 0: a skip record
    std::uint64_t position;
    std::uint64_t units;
  };

  char* at(std::uint64_t position) const { return ring_ + (position % units_) * kUnit; }
  std::uint64_t units_to_end(std::uint64_t position) const { return units_ - position % units_; }
  std::uint64_t needed(std::uint64_t position, const RecordIn& record) const;
  void put_skip(std::uint64_t position);
  void put(std::uint64_t position, const RecordIn& record);
  void scan();
  void scan_one(std::uint64_t& position);
  void note(const RecordHeader& header);
  void publish(Word& word, std::uint64_t value);
  RecordHeader checked_header(std::uint64_t position) const;
  [[noreturn]] void corrupt(std::uint64_t position, const std::string& what) const;

  PMEMobjpool* pool_;
  PoolRoot& root_;
  char* ring_;
  std::uint64_t units_;
  std::uint64_t head_ = 0;
  std::uint64_t tail_ = 0;
  std::uint64_t truncated_ = 0;
  std::unordered_map<std::uint64_t, Known> index_;
  std::deque<Span> spans_;
};

}  // namespace mpaxos
