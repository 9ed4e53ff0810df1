#include "log.hpp"

#include <algorithm>

#include "checksum.hpp"
#include "error.hpp"

namespace mpaxos {
namespace {

constexpr std::uint64_t kWordMask = (std::uint64_t{1} << 48) - 1;

std::uint64_t check16(std::uint64_t value) {
  const auto crc = crc32c({reinterpret_cast<const char*>(&value), sizeof value}, 0x6d5031);
  return (crc ^ (crc >> 16)) & 0xffff;
}

std::uint64_t units_of(std::uint64_t length) { return 1 + (length + kUnit - 1) / kUnit; }

std::uint32_t header_crc(const RecordHeader& header) {
  return crc32c({reinterpret_cast<const char*>(&header), offsetof(RecordHeader, crc)});
}

// A record does not wrap around the end of the ring: what is left there is wasted, less than the
// size of the record. Records are expected to be at most this part of the ring.
constexpr std::uint64_t kLargestPart = 16;

}  // namespace

Word make_word(std::uint64_t value) {
  invariant(value <= kWordMask, "a position beyond 48 bits");
  return {value | check16(value) << 48};
}

std::uint64_t read_word(const Word& word, const char* what) {
  const auto value = word.bits & kWordMask;
  if (word.bits >> 48 != check16(value)) {
    throw Error(ErrorKind::kStorageCorrupt,
                std::string("the pool's ") + what + " does not match its checksum");
  }
  return value;
}

Log::Log(PMEMobjpool* pool, PoolRoot& root)
    : pool_(pool),
      root_(root),
      ring_(reinterpret_cast<char*>(pool) + root.header.log_offset),
      units_(root.header.log_size / kUnit) {
  scan();
}

std::uint64_t Log::room() const {
  const auto free_units = units_ - (tail_ - head_);
  const auto to_end = units_to_end(tail_);
  if (to_end >= free_units) return free_units * kUnit;
  // The end of the ring cuts the free part in two. Either one of the parts takes everything, or
  // less than one record of the largest size is wasted at the end.
  const auto largest = units_ / kLargestPart;
  const auto despite_waste = free_units > largest ? free_units - largest : 0;
  return std::max({to_end, free_units - to_end, despite_waste}) * kUnit;
}

std::uint64_t Log::needed(std::uint64_t position, const RecordIn& record) const {
  const auto units = units_of(record.batch->bytes().size());
  const auto to_end = units_to_end(position);
  return units <= to_end ? units : to_end + units;
}

void Log::check_room(const std::vector<RecordIn>& records) const {
  auto position = tail_;
  for (const auto& record : records) position += needed(position, record);
  if (position - head_ > units_) {
    throw Error(ErrorKind::kStorageFull, "the log has no room for " +
                                             std::to_string((position - tail_) * kUnit) +
                                             " bytes; " + std::to_string(room()) + " are free");
  }
}

void Log::append(const std::vector<RecordIn>& records) {
  if (records.empty()) return;
  check_room(records);
  for (const auto& record : records) {
    invariant(record.slot > truncated_, "a record of a slot that was given up");
    const auto known = index_.find(record.slot);
    invariant(known == index_.end() || std::pair(known->second.round, known->second.leader) <=
                                           std::pair(record.round, record.leader),
              "a record of a lower ballot than its slot already has");
  }
  auto position = tail_;
  for (const auto& record : records) {
    const auto units = units_of(record.batch->bytes().size());
    if (units > units_to_end(position)) {
      put_skip(position);
      position += units_to_end(position);
    }
    put(position, record);
    position += units;
  }
  pmemobj_drain(pool_);
  tail_ = position;
  publish(root_.tail, tail_);
}

void Log::put_skip(std::uint64_t position) {
  RecordHeader header{};
  header.magic = kSkipMagic;
  header.length = static_cast<std::uint32_t>((units_to_end(position) - 1) * kUnit);
  header.position = position;
  header.crc = header_crc(header);
  pmemobj_memcpy(pool_, at(position), &header, sizeof header, PMEMOBJ_F_MEM_NODRAIN);
  note(header);
}

void Log::put(std::uint64_t position, const RecordIn& record) {
  const auto bytes = record.batch->bytes();
  RecordHeader header{};
  header.magic = kRecordMagic;
  header.length = static_cast<std::uint32_t>(bytes.size());
  header.slot = record.slot;
  header.round = record.round;
  header.leader = record.leader;
  header.time = record.time;
  header.digest = record.batch->digest();
  header.position = position;
  header.crc = header_crc(header);
  char* target = at(position);
  pmemobj_memcpy(pool_, target, &header, sizeof header, PMEMOBJ_F_MEM_NODRAIN);
  pmemobj_memcpy(pool_, target + kUnit, bytes.data(), bytes.size(), PMEMOBJ_F_MEM_NODRAIN);
  note(header);
}

void Log::note(const RecordHeader& header) {
  spans_.push_back({header.slot, header.position, units_of(header.length)});
  if (header.magic == kRecordMagic && header.slot > truncated_) {
    index_[header.slot] = {header.position, header.round, header.leader};
  }
}

void Log::publish(Word& word, std::uint64_t value) {
  // One aligned 8-byte store is atomic with respect to power failure.
  __atomic_store_n(&word.bits, make_word(value).bits, __ATOMIC_RELEASE);
  pmemobj_persist(pool_, &word, sizeof word);
}

void Log::truncate(std::uint64_t upto) {
  if (upto <= truncated_) return;
  for (auto slot = truncated_ + 1; slot <= upto && !index_.empty(); ++slot) index_.erase(slot);
  truncated_ = upto;
  publish(root_.truncated, truncated_);
  auto head = head_;
  while (!spans_.empty()) {
    const auto& span = spans_.front();
    const auto known = index_.find(span.slot);
    if (span.slot > truncated_ && known != index_.end() &&
        known->second.position == span.position) {
      break;
    }
    head = span.position + span.units;
    spans_.pop_front();
  }
  if (head == head_) return;
  head_ = head;
  publish(root_.head, head_);
}

std::optional<RecordOut> Log::read(std::uint64_t slot) const {
  const auto known = index_.find(slot);
  if (known == index_.end()) return std::nullopt;
  const auto position = known->second.position;
  const auto header = checked_header(position);
  if (header.magic != kRecordMagic || header.slot != slot) corrupt(position, "its slot");
  std::string bytes(at(position) + kUnit, header.length);
  if (digest64(bytes) != header.digest) corrupt(position, "the digest of its batch");
  try {
    return RecordOut{header.round, header.leader, header.time, Batch::parse(std::move(bytes))};
  } catch (const Error& error) {
    corrupt(position, std::string("its batch (") + error.what() + ")");
  }
}

std::vector<std::tuple<std::uint64_t, std::uint64_t, std::uint32_t>> Log::slots() const {
  std::vector<std::tuple<std::uint64_t, std::uint64_t, std::uint32_t>> found;
  for (const auto& [slot, known] : index_) found.emplace_back(slot, known.round, known.leader);
  std::sort(found.begin(), found.end());
  return found;
}

RecordHeader Log::checked_header(std::uint64_t position) const {
  RecordHeader header;
  std::memcpy(&header, at(position), sizeof header);
  if (header.crc != header_crc(header)) corrupt(position, "the checksum of its header");
  if (header.position != position) corrupt(position, "its position");
  if (units_of(header.length) > units_to_end(position)) corrupt(position, "its length");
  return header;
}

void Log::scan() {
  head_ = read_word(root_.head, "log head");
  tail_ = read_word(root_.tail, "log tail");
  truncated_ = read_word(root_.truncated, "truncation point");
  if (head_ > tail_ || tail_ - head_ > units_) {
    throw Error(ErrorKind::kStorageCorrupt, "the log's head and tail do not fit together");
  }
  auto position = head_;
  while (position < tail_) scan_one(position);
  if (position != tail_) corrupt(position, "the end of the log");
}

void Log::scan_one(std::uint64_t& position) {
  const auto header = checked_header(position);
  if (header.magic == kRecordMagic) {
    if (digest64({at(position) + kUnit, header.length}) != header.digest) {
      corrupt(position, "the digest of its batch (slot " + std::to_string(header.slot) + ")");
    }
    const auto known = index_.find(header.slot);
    if (known != index_.end() && std::pair(known->second.round, known->second.leader) >
                                     std::pair(header.round, header.leader)) {
      corrupt(position, "its ballot, which is lower than an older record's of the same slot");
    }
  } else if (header.magic != kSkipMagic) {
    corrupt(position, "its magic number");
  }
  note(header);
  position += units_of(header.length);
}

void Log::corrupt(std::uint64_t position, const std::string& what) const {
  throw Error(ErrorKind::kStorageCorrupt,
              "the log record at byte " + std::to_string(position % units_ * kUnit) +
                  " of the ring is damaged: " + what + " is wrong");
}

}  // namespace mpaxos
