// Reading a write-ahead log when it is opened, by the rules R1 to R3 of wal_format.hpp.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "wal_device.hpp"
#include "wal_index.hpp"

namespace mpaxos {

struct WalIdentity {
  std::array<std::uint8_t, 16> cluster;
  std::uint32_t replica;
};

// Reads the header of the first file, to learn how many there are. Throws kStorageMissing,
// kStorageForeign, kStorageVersion, kStorageCorrupt.
SegmentHeader peek_wal(const std::string& directory, const WalIdentity& identity);

class WalRecovery {
 public:
  // `first` is what peek_wal returned.
  WalRecovery(const std::string& directory, WalDevice& device, const WalIdentity& identity,
              const SegmentHeader& first)
      : directory_(directory), device_(device), identity_(identity), first_(first),
        salt_(wal_salt(first)) {}

  // Fills `index`. Throws as peek_wal.
  void run(WalIndex& index);

  // Then: where writing goes on.
  std::uint64_t segment() const { return segment_; }
  std::uint64_t position() const { return wal_round_up(position_, kWalBlock); }
  std::uint64_t sequence() const { return sequence_; }  // of the next record
  std::uint32_t generation() const { return generation_; }
  // Bytes that were dropped as a torn tail, at most; 0: the log ended in order.
  std::uint64_t torn() const { return torn_; }

 private:
  std::uint32_t file_of(std::uint64_t segment) const {
    return static_cast<std::uint32_t>((segment - 1) % first_.files);
  }
  void read_headers();
  void check_numbers();
  void enter(std::uint64_t segment, WalIndex& index);
  void read_segment(std::uint64_t segment, WalIndex& index);
  bool read_record(std::uint64_t segment, std::uint64_t at, bool only_opened, WalIndex& index);
  const char* bytes_at(std::uint64_t at, std::uint64_t size);
  std::optional<WalHeader> header_at(std::uint64_t at);
  void check_end();
  [[noreturn]] void corrupt(std::uint64_t segment, std::uint64_t at, const std::string& what) const;

  std::string directory_;
  WalDevice& device_;
  WalIdentity identity_;
  SegmentHeader first_;
  std::uint32_t salt_;
  std::vector<SegmentHeader> headers_;
  std::uint64_t reading_ = 0;  // the segment
  std::uint64_t window_ = 0;   // where in it `bytes_` begin
  std::string bytes_;
  std::uint64_t segment_ = 0;
  std::uint64_t position_ = 0;
  std::uint64_t sequence_ = 0;
  std::uint32_t generation_ = 0;
  std::uint64_t torn_ = 0;
};

}  // namespace mpaxos
