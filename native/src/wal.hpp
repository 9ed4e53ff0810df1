// A write-ahead log on disk: promise and accepted batches of one replica. Format and the argument
// why it can be believed: wal_format.hpp.
//
// All calls come from one thread. submit() lets a thread of the log write and sync while the
// caller goes on; write() does it in the caller, which saves two changes of threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <optional>
#include <thread>
#include <tuple>

#include "log.hpp"
#include "wal_recovery.hpp"

namespace mpaxos {

// One thing to write: kWalPromise (round, leader), kWalRecord (all), kWalTruncate (slot),
// kWalDecided (slot).
struct WalItem {
  WalKind kind;
  std::uint64_t slot;
  std::uint64_t round;
  std::uint32_t leader;
  std::uint64_t time;
  BatchPtr batch;
};

class Wal {
 public:
  // Reads all that is needed and begins a new generation. Throws kStorageMissing,
  // kStorageForeign, kStorageVersion, kStorageCorrupt, kStorageFull, kStorage. `traced`: note
  // the calls to the device.
  Wal(const std::string& directory, const WalIdentity& identity, std::uint64_t cache_size,
      bool traced);
  ~Wal();
  Wal(const Wal&) = delete;
  Wal& operator=(const Wal&) = delete;

  // Appends `items` in their order, all or nothing; durable when wait(ticket) returns, or
  // durable_upto() reaches the returned ticket. Throws kStorageFull before anything is written.
  // The truncations of a turn are written as one, at its end. One that comes alone when there is no
  // free segment is only noted, and written with whatever comes next: an older truncation point is
  // always safe.
  std::uint64_t submit(const std::vector<WalItem>& items);
  // The same, durable on return.
  void write(const std::vector<WalItem>& items);
  void wait(std::uint64_t ticket);
  // Throws kStorage when the device has failed.
  std::uint64_t durable_upto();
  // An eventfd, readable when durable_upto() may have moved.
  int event() const { return event_; }

  // The newest record of `slot`, verified; nothing when there is none.
  std::optional<RecordOut> read(std::uint64_t slot);
  // Makes all durable and writes a record that protects it.
  void close();

  WalBallot promised() const { return index_.promised(); }
  std::uint64_t truncated_upto() const { return index_.truncated(); }
  std::uint64_t decided_upto() const { return index_.decided(); }
  const std::map<std::uint64_t, WalIndex::Known>& slots() const { return index_.all(); }
  // Bytes that records of at most largest() bytes may take together, each counted with its length
  // rounded up to 64 plus 64.
  std::uint64_t room();
  std::uint64_t capacity() const;
  // Size of the largest record, header included. The end of a segment that is too short for the
  // next record is wasted, so it is a small part of one.
  std::uint64_t largest() const { return header_.size / 16; }
  std::uint64_t torn() const { return torn_; }
  std::uint64_t segment() const { return segment_; }
  std::uint64_t free_segments();
  std::uint32_t generation() const { return header_.generation; }
  const SegmentHeader& header() const { return header_; }
  WalTrace* trace() { return trace_; }

 private:
  // Bytes for one place: a group, or a segment's header.
  struct Chunk {
    std::uint32_t file;
    std::uint64_t offset;
    std::string bytes;
    std::vector<std::size_t> records;  // where in `bytes`; none: a segment's header
    std::uint64_t last;                // sequence number
  };

  std::uint32_t file_of(std::uint64_t segment) const {
    return static_cast<std::uint32_t>((segment - 1) % header_.files);
  }
  // With `left` bytes in the present segment and `free` segments beside it.
  std::uint64_t room_of(std::uint64_t left, std::uint64_t free) const;
  void check_usable();
  void check_room(const std::vector<WalItem>& items);
  std::uint64_t append(const std::vector<WalItem>& items);
  void put(const WalItem& item);
  void end_group();
  void begin_segment();
  void queue(Chunk chunk);
  Chunk take_run();
  void seal(Chunk& run, std::uint64_t durable) const;
  void flush(std::unique_lock<std::mutex>& lock);
  void run_thread();
  void stop_thread();
  [[noreturn]] void corrupt(const WalIndex::Known& known, const std::string& what) const;

  std::string directory_;
  SegmentHeader header_;  // of the present segment
  std::uint32_t salt_;
  std::unique_ptr<WalDevice> device_;
  WalTrace* trace_ = nullptr;
  WalIndex index_;
  std::uint64_t segment_ = 0;
  std::uint64_t position_ = 0;   // in the segment, of the next group or of the next record in it
  std::uint64_t sequence_ = 0;   // of the next record
  std::uint64_t truncation_written_ = 0;
  std::uint64_t torn_ = 0;
  bool closed_ = false;
  std::optional<Chunk> group_;

  // Shared with the thread:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Chunk> queue_;
  std::uint64_t queued_bytes_ = 0;
  std::uint64_t durable_ = 0;  // sequence number
  bool flushing_ = false;
  bool stopping_ = false;
  bool submitting_ = false;  // somebody may wait for the event
  std::string failure_;
  std::thread thread_;
  int event_ = -1;
};

}  // namespace mpaxos
