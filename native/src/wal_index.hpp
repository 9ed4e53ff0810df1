// What a write-ahead log says: the promise, the truncation point, and where the newest record of
// each slot lies. Reading the log and appending to it change it in the same way.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "batch.hpp"
#include "wal_format.hpp"

namespace mpaxos {

using WalBallot = std::pair<std::uint64_t, std::uint32_t>;

class WalIndex {
 public:
  struct Known {
    std::uint64_t segment;
    std::uint64_t offset;  // in the file, of the record's header
    std::uint64_t sequence;
    WalBallot ballot;
    std::uint64_t time;
    std::uint32_t length;
    BatchPtr recent;  // while it is among the most recently written
  };

  // Keeps up to `cache_size` bytes of the most recently written batches in memory, so that sending
  // what was just accepted does not read the disk.
  WalIndex(std::uint32_t files, std::uint64_t cache_size)
      : live_(files, 0), cache_size_(cache_size) {}

  // The state with which reading begins.
  void start(std::uint64_t segment, WalBallot promised, std::uint64_t truncated);
  // Throws kInvariant when the record cannot follow what came before.
  void apply(const WalHeader& header, std::uint64_t segment, std::uint64_t offset, BatchPtr batch);
  void truncate(std::uint64_t upto);

  const Known* find(std::uint64_t slot) const;
  const std::map<std::uint64_t, Known>& all() const { return known_; }
  WalBallot promised() const { return promised_; }
  std::uint64_t truncated() const { return truncated_; }
  std::uint64_t decided() const { return decided_; }
  // The oldest segment below `current`, or that itself, with a record that is still needed.
  std::uint64_t oldest_needed(std::uint64_t current);

 private:
  void accept(const WalHeader& header, std::uint64_t segment, std::uint64_t offset,
              BatchPtr batch);
  void drop(Known& known);
  void keep(std::uint64_t slot, Known& known, BatchPtr batch);
  bool is_kept(const std::pair<std::uint64_t, std::uint64_t>& entry) const;
  std::uint64_t& live(std::uint64_t segment) { return live_[(segment - 1) % live_.size()]; }

  std::map<std::uint64_t, Known> known_;
  std::vector<std::uint64_t> live_;  // records that are still needed, by file
  std::uint64_t oldest_ = 1;
  WalBallot promised_{0, 0};
  std::uint64_t truncated_ = 0;
  std::uint64_t decided_ = 0;
  std::deque<std::pair<std::uint64_t, std::uint64_t>> kept_;  // (slot, sequence), oldest first
  std::uint64_t kept_bytes_ = 0;
  std::uint64_t cache_size_;
};

}  // namespace mpaxos
