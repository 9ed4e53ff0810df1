#include "journal.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "checksum.hpp"
#include "error.hpp"

namespace mpaxos {
namespace {

constexpr std::uint64_t kLargest = 1 << 20;
constexpr std::uint64_t kSmallest = 16 << 10;

std::uint64_t padded(std::uint64_t size) { return (size + 7) / 8 * 8; }

[[noreturn]] void damaged(const char* what) {
  throw Error(ErrorKind::kStorageCorrupt, std::string("the undo journal is damaged: ") + what);
}

bool intact(const AppliedRoot& applied) {
  return applied.crc ==
         crc32c({reinterpret_cast<const char*>(&applied), offsetof(AppliedRoot, crc)});
}

}  // namespace

std::uint64_t journal_size(std::uint64_t pool_size) {
  return std::clamp(pool_size / 512 / 64 * 64, kSmallest, kLargest);
}

std::uint64_t Journal::offset_of(const void* data) const {
  return static_cast<std::uint64_t>(static_cast<const char*>(data) -
                                    reinterpret_cast<const char*>(pool_));
}

// Where `offset` is, or would be: at least half of the places are free.
Journal::Known& Journal::place_of(std::uint64_t offset) const {
  const auto mask = known_.size() - 1;
  auto at = (offset >> 3) * 0x9e3779b97f4a7c15 >> 20 & mask;
  while (known_[at].generation == generation_ && known_[at].offset != offset) at = (at + 1) & mask;
  return known_[at];
}

void Journal::begin(std::uint64_t slot) {
  ++generation_;
  count_ = 0;
  asked_ = nullptr;
  older_ = recent_ = {};
  used_ = sizeof(Header);
  const Header header{slot, 0, 0, 0};
  std::memcpy(buffer_.data(), &header, sizeof header);
}

void Journal::grow() {
  std::vector<Known> larger(known_.size() * 2);
  known_.swap(larger);
  for (const auto& known : larger) {
    if (known.generation == generation_) place_of(known.offset) = known;
  }
}

void Journal::remember(const void* data, std::size_t size) {
  const auto offset = offset_of(data);
  auto& place = place_of(offset);
  if (place.generation == generation_) return;
  const auto at = used_;
  const auto end = at + sizeof(Entry) + padded(size);
  if (end > size_) return;
  place = {offset, generation_};
  asked_ = nullptr;
  used_ = end;
  if (end > buffer_.size()) buffer_.resize(std::min<std::uint64_t>(2 * end, size_));
  const Entry entry{offset, size};
  std::memcpy(buffer_.data() + at, &entry, sizeof entry);
  std::memcpy(buffer_.data() + at + sizeof entry, data, size);
  if (++count_ * 2 > known_.size()) grow();
}

void Journal::written(const void* data, std::size_t size) {
  const auto at = reinterpret_cast<std::uintptr_t>(data);
  const Lines lines{at / kLine, (at + size - 1) / kLine + 1};
  if (!recent_.join(lines)) {
    std::swap(recent_, older_);
    if (recent_.join(lines)) return;
    flush(recent_);
    recent_ = lines;
  }
}

void Journal::flush_written() {
  flush(older_);
  flush(recent_);
  older_ = recent_ = {};
}

void Journal::flush(const Lines& lines) const {
  if (lines.begin == lines.end) return;
  pmemobj_flush(pool_, reinterpret_cast<const void*>(lines.begin * kLine),
                (lines.end - lines.begin) * kLine);
}

std::uint64_t Journal::check_of(const Header& header, const char* entries) {
  const auto seed = header.slot * 0x9e3779b97f4a7c15 + header.length;
  return digest64({entries, header.length}, seed);
}

void Journal::seal() {
  Header header{};
  std::memcpy(&header, buffer_.data(), sizeof header);
  header.length = used_ - sizeof header;
  header.check = check_of(header, buffer_.data() + sizeof header);
  std::memcpy(buffer_.data(), &header, sizeof header);
  pmemobj_memcpy(pool_, area_, buffer_.data(), used_,
                 PMEMOBJ_F_MEM_NONTEMPORAL | PMEMOBJ_F_MEM_NODRAIN);
  pmemobj_drain(pool_);
}

void Journal::clear() {
  slot_word() = 0;
  pmemobj_persist(pool_, &slot_word(), sizeof(std::uint64_t));
}

void Journal::take_back() {
  Header header{};
  std::memcpy(&header, area_, sizeof header);
  if (header.slot == 0) return;  // nothing was sealed
  undo(header);
  clear();
}

void Journal::recover(AppliedRoot& applied) {
  Header header{};
  std::memcpy(&header, area_, sizeof header);
  const bool whole = header.slot != 0 && header.length <= size_ - sizeof header &&
                     header.check == check_of(header, area_ + sizeof header);
  // One that is not whole was never sealed: nothing had been overwritten. One that is whole is of
  // the slot that was being applied, or of the last one.
  if (!whole) return;
  if (intact(applied)) {
    if (header.slot <= applied.slot) return;
    if (header.slot != applied.slot + 1) damaged("it is of a slot that was not the next");
  }
  undo(header);
  if (!intact(applied) || applied.slot + 1 != header.slot) damaged("it has no applied position");
  clear();
}

void Journal::undo(const Header& header) {
  const char* at = area_ + sizeof header;
  const char* end = at + header.length;
  while (at < end) {
    Entry entry{};
    if (static_cast<std::uint64_t>(end - at) < sizeof entry) damaged("an entry is cut short");
    std::memcpy(&entry, at, sizeof entry);
    at += sizeof entry;
    if (entry.length > static_cast<std::uint64_t>(end - at)) damaged("an entry is cut short");
    auto* target = reinterpret_cast<char*>(pool_) + entry.offset;
    if (pmemobj_pool_by_ptr(target) != pool_ ||
        pmemobj_pool_by_ptr(target + entry.length - 1) != pool_) {
      damaged("an entry leads outside");
    }
    pmemobj_memcpy(pool_, target, at, entry.length, PMEMOBJ_F_MEM_NODRAIN);
    at += padded(entry.length);
  }
  pmemobj_drain(pool_);
}

}  // namespace mpaxos
