#include "wal.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "checksum.hpp"
#include "error.hpp"

namespace mpaxos {
namespace {

// What may wait to be written; beyond it submit() waits. One run is at most this long.
constexpr std::uint64_t kMostQueued = 32 << 20;

// Of a turn, beside its records: promises and a truncation.
constexpr std::uint64_t kControl = kWalBlock;

std::uint64_t size_of(const WalItem& item) {
  return wal_record_size(item.batch ? item.batch->bytes().size() : 0);
}

}  // namespace

Wal::Wal(const std::string& directory, const WalIdentity& identity, std::uint64_t cache_size,
         bool traced)
    : directory_(directory),
      header_(peek_wal(directory, identity)),
      salt_(wal_salt(header_)),
      device_(open_wal_files(directory, header_.files)),
      index_(header_.files, cache_size) {
  if (traced) {
    auto trace = std::make_unique<WalTrace>(std::move(device_));
    trace_ = trace.get();
    device_ = std::move(trace);
  }
  WalRecovery recovery(directory, *device_, identity, header_);
  recovery.run(index_);
  segment_ = recovery.segment();
  header_.file = file_of(segment_);
  position_ = recovery.position();
  sequence_ = recovery.sequence();
  torn_ = recovery.torn();
  durable_ = sequence_ - 1;
  truncation_written_ = index_.truncated();
  header_.generation = recovery.generation() + 1;
  event_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (event_ < 0) throw Error(ErrorKind::kStorage, "no file descriptor is left for the log");
  try {
    write({{kWalOpened, 0, 0, 0, 0, nullptr}});
  } catch (...) {
    ::close(event_);
    throw;
  }
}

Wal::~Wal() {
  stop_thread();
  ::close(event_);
}

void Wal::check_usable() {
  invariant(!closed_, "the log is closed");
  if (!failure_.empty()) throw Error(ErrorKind::kStorage, failure_);
}

// -------------------------------------------------------------------------- room

std::uint64_t Wal::free_segments() {
  return header_.files - (segment_ - index_.oldest_needed(segment_) + 1);
}

// The last free segment is a reserve for promises, truncations and starts: a full log must be able
// to say that it is full, and to become less so.
std::uint64_t Wal::room() {
  const auto free = free_segments();
  return free == 0 ? 0 : room_of(header_.size - position_, free);
}

std::uint64_t Wal::capacity() const {
  return room_of(header_.size - kWalBlock, header_.files - 1);
}

// Whatever the sizes of the records, each change to the next segment wastes less than the largest.
std::uint64_t Wal::room_of(std::uint64_t left, std::uint64_t free) const {
  return (left > kControl ? left - kControl : 0) +
         (free - 1) * (header_.size - kWalBlock - largest());
}

void Wal::check_room(const std::vector<WalItem>& items) {
  auto position = position_;
  std::uint64_t more = 0;  // segments
  bool records = false;
  for (const auto& item : items) {
    const auto size = size_of(item);
    if (size > largest()) {
      throw Error(ErrorKind::kStorageFull,
                  "a record of " + std::to_string(size) + " bytes is above the largest, a "
                      "sixteenth of a segment (" + std::to_string(largest()) +
                      "): make the log with larger segments, or lower the limits of requests");
    }
    if (size > header_.size - position) {
      ++more;
      position = kWalBlock;
    }
    position += size;
    records = records || item.kind == kWalRecord;
  }
  const auto free = free_segments();
  if (more + (records ? 1 : 0) > free) {
    throw Error(ErrorKind::kStorageFull,
                "the log in " + directory_ + " has no room for what this turn writes; " +
                    std::to_string(room()) + " bytes are free of " + std::to_string(capacity()) +
                    ". It becomes free when the state machine's snapshots and the other replicas "
                    "advance");
  }
}

// -------------------------------------------------------------------------- appending

std::uint64_t Wal::submit(const std::vector<WalItem>& items) {
  const auto ticket = append(items);
  if (!thread_.joinable()) {
    const std::lock_guard lock(mutex_);
    submitting_ = true;
    thread_ = std::thread(&Wal::run_thread, this);
  }
  changed_.notify_all();
  return ticket;
}

void Wal::write(const std::vector<WalItem>& items) { wait(append(items)); }

std::uint64_t Wal::append(const std::vector<WalItem>& items) {
  {
    const std::lock_guard lock(mutex_);
    check_usable();
  }
  auto all = items;
  std::erase_if(all, [](const WalItem& item) { return item.kind == kWalTruncate; });
  auto upto = index_.truncated();
  for (const auto& item : items) {
    if (item.kind == kWalTruncate) upto = std::max(upto, item.slot);
  }
  if (all.empty()) index_.truncate(upto);
  // One truncation for all of them, and for those that were only noted.
  if (upto > truncation_written_) all.push_back({kWalTruncate, upto, 0, 0, 0, nullptr});
  const bool control = all.size() == 1 && all[0].kind == kWalTruncate;
  if (all.empty() || (control && free_segments() == 0)) return sequence_ - 1;
  check_room(all);
  try {
    for (const auto& item : all) put(item);
    end_group();
  } catch (const Error& error) {
    // The index has a part of what is not going to be written.
    const std::lock_guard lock(mutex_);
    failure_ = error.what();
    throw;
  }
  return sequence_ - 1;
}

void Wal::put(const WalItem& item) {
  const auto size = size_of(item);
  if (size > header_.size - position_) {
    end_group();
    begin_segment();
  }
  if (!group_) group_ = Chunk{header_.file, position_, {}, {}, 0};
  WalHeader header{};
  header.magic = kWalRecordMagic;
  header.kind = item.kind;
  header.sequence = sequence_;
  header.slot = item.slot;
  header.round = item.round;
  header.time = item.time;
  header.generation = header_.generation;
  header.leader = item.leader;
  const auto bytes = item.batch ? item.batch->bytes() : std::string_view();
  header.length = static_cast<std::uint32_t>(bytes.size());
  header.digest = item.batch ? item.batch->digest() : 0;
  index_.apply(header, segment_, position_, item.batch);
  if (item.kind == kWalTruncate) truncation_written_ = item.slot;
  group_->records.push_back(group_->bytes.size());
  group_->bytes.append(reinterpret_cast<const char*>(&header), sizeof header);
  group_->bytes.append(bytes);
  group_->bytes.resize(wal_round_up(group_->bytes.size(), kWalUnit), '\0');
  group_->last = sequence_++;
  position_ += size;
}

void Wal::end_group() {
  if (!group_) return;
  auto& last = group_->bytes[group_->records.back() + offsetof(WalHeader, flags)];
  last = static_cast<char>(kWalLast);
  group_->bytes.resize(wal_round_up(group_->bytes.size(), kWalBlock), '\0');
  position_ = group_->offset + group_->bytes.size();
  queue(*std::exchange(group_, std::nullopt));
}

void Wal::begin_segment() {
  invariant(free_segments() > 0, "a segment that is still needed would be written over");
  ++segment_;
  position_ = kWalBlock;
  header_.file = file_of(segment_);
  header_.segment = segment_;
  header_.oldest = index_.oldest_needed(segment_);
  header_.first = sequence_;
  std::tie(header_.round, header_.leader) = index_.promised();
  header_.truncated = truncation_written_ = index_.truncated();
  header_.crc = wal_crc(header_);
  std::string bytes(kWalBlock, '\0');
  std::memcpy(bytes.data(), &header_, sizeof header_);
  queue({header_.file, 0, std::move(bytes), {}, sequence_ - 1});
}

// -------------------------------------------------------------------------- making durable

void Wal::queue(Chunk chunk) {
  std::unique_lock lock(mutex_);
  // The thread may have failed since append() looked: nothing may follow that (W5).
  check_usable();
  queued_bytes_ += chunk.bytes.size();
  queue_.push_back(std::move(chunk));
  while (queued_bytes_ > kMostQueued && failure_.empty()) {
    if (flushing_) {
      changed_.wait(lock);
    } else {
      flush(lock);
    }
  }
}

// What can be made durable by one write and one sync: groups that lie one behind the other.
Wal::Chunk Wal::take_run() {
  auto run = std::move(queue_.front());
  queue_.pop_front();
  while (!queue_.empty() && !run.records.empty() && !queue_.front().records.empty() &&
         queue_.front().file == run.file &&
         run.bytes.size() + queue_.front().bytes.size() <= kMostQueued) {
    const auto& next = queue_.front();
    for (const auto at : next.records) run.records.push_back(run.bytes.size() + at);
    run.bytes += next.bytes;
    run.last = next.last;
    queue_.pop_front();
  }
  return run;
}

void Wal::seal(Chunk& run, std::uint64_t durable) const {
  for (const auto at : run.records) {
    WalHeader header;
    std::memcpy(&header, run.bytes.data() + at, sizeof header);
    header.unsynced = static_cast<std::uint32_t>(header.sequence - durable);
    header.crc = wal_crc(header, salt_);
    std::memcpy(run.bytes.data() + at, &header, sizeof header);
  }
}

void Wal::flush(std::unique_lock<std::mutex>& lock) {
  auto run = take_run();
  const auto durable = durable_;
  flushing_ = true;
  lock.unlock();
  std::string failure;
  try {
    seal(run, durable);
    device_->write(run.file, run.offset, run.bytes);
    device_->sync(run.file);
  } catch (const std::exception& error) {
    failure = error.what();
  }
  lock.lock();
  flushing_ = false;
  queued_bytes_ -= run.bytes.size();
  if (failure.empty()) {
    durable_ = run.last;
  } else {
    failure_ = failure;  // nothing is written any more (W5)
    queue_.clear();
  }
  changed_.notify_all();
  if (!submitting_) return;
  const std::uint64_t one = 1;
  // It can only fail when the counter is full, and then it is readable anyway.
  (void)!::write(event_, &one, sizeof one);
}

void Wal::wait(std::uint64_t ticket) {
  std::unique_lock lock(mutex_);
  while (durable_ < ticket) {
    check_usable();
    if (flushing_ || queue_.empty()) {
      invariant(flushing_, "a ticket of nothing that was submitted");
      changed_.wait(lock);
    } else {
      flush(lock);
    }
  }
}

std::uint64_t Wal::durable_upto() {
  const std::lock_guard lock(mutex_);
  check_usable();
  return durable_;
}

void Wal::run_thread() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || (!queue_.empty() && !flushing_); });
    if (stopping_) return;
    flush(lock);
  }
}

void Wal::stop_thread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

// -------------------------------------------------------------------------- reading, closing

std::optional<RecordOut> Wal::read(std::uint64_t slot) {
  invariant(!closed_, "the log is closed");
  const auto* known = index_.find(slot);
  if (known == nullptr) return std::nullopt;
  const auto& [round, leader] = known->ballot;
  if (known->recent) return RecordOut{round, leader, known->time, known->recent};
  wait(known->sequence);
  const auto file = file_of(known->segment);
  WalHeader header;
  std::string bytes(known->length, '\0');
  device_->read(file, known->offset, reinterpret_cast<char*>(&header), sizeof header);
  device_->read(file, known->offset + kWalUnit, bytes.data(), bytes.size());
  if (header.magic != kWalRecordMagic || header.crc != wal_crc(header, salt_) ||
      header.sequence != known->sequence || header.slot != slot ||
      header.length != known->length) {
    corrupt(*known, "the header of the record of slot " + std::to_string(slot));
  }
  if (digest64(bytes) != header.digest) {
    corrupt(*known, "the digest of the batch of slot " + std::to_string(slot));
  }
  return RecordOut{round, leader, known->time, Batch::parse(std::move(bytes))};
}

void Wal::corrupt(const WalIndex::Known& known, const std::string& what) const {
  throw Error(ErrorKind::kStorageCorrupt,
              wal_file_path(directory_, file_of(known.segment)) + " at byte " +
                  std::to_string(known.offset) +
                  " is damaged: " + what + " is wrong. The replica stops; restore its directory "
                  "from a good copy, or replace the replica");
}

void Wal::close() {
  if (closed_) return;
  bool intact;
  {
    const std::lock_guard lock(mutex_);
    intact = failure_.empty();
  }
  try {
    // Without room it stays away: the log is as good as after a crash.
    const auto free = free_segments();
    if (intact && (free > 1 || (free > 0 && header_.size - position_ >= kWalBlock))) {
      write({{kWalClosed, 0, 0, 0, 0, nullptr}});
    } else if (intact) {
      wait(sequence_ - 1);
    }
  } catch (const Error&) {
    closed_ = true;
    stop_thread();
    throw;
  }
  closed_ = true;
  stop_thread();
}

}  // namespace mpaxos
