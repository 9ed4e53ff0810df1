#include "batch.hpp"

#include "checksum.hpp"
#include "error.hpp"

namespace mpaxos {

EntryCursor::EntryCursor(const Batch& batch)
    : at_(batch.bytes().data() + sizeof(BatchHeader)),
      end_(batch.bytes().data() + batch.bytes().size()) {}

bool EntryCursor::next(Entry& entry) {
  if (at_ == end_) return false;
  std::memcpy(&entry.header, at_, sizeof(EntryHeader));
  at_ += sizeof(EntryHeader);
  entry.payload = {at_, entry.header.length};
  at_ += entry.header.length;
  return true;
}

std::uint32_t validate_entries(std::string_view bytes) {
  std::uint32_t count = 0;
  std::size_t at = 0;
  while (at < bytes.size()) {
    if (bytes.size() - at < sizeof(EntryHeader)) {
      throw Error(ErrorKind::kWire, "an entry is cut short in its header");
    }
    EntryHeader header;
    std::memcpy(&header, bytes.data() + at, sizeof header);
    at += sizeof header;
    if (header.length > bytes.size() - at) {
      throw Error(ErrorKind::kWire, "an entry is longer than what holds it");
    }
    if (header.kind > kEntryQuery || header.reserved[0] | header.reserved[1] | header.reserved[2]) {
      throw Error(ErrorKind::kWire, "an entry of unknown kind " + std::to_string(header.kind));
    }
    at += header.length;
    ++count;
  }
  return count;
}

Batch::Batch(std::string bytes, std::uint64_t digest) : bytes_(std::move(bytes)), digest_(digest) {
  std::memcpy(&header_, bytes_.data(), sizeof header_);
}

std::shared_ptr<const Batch> Batch::parse(std::string bytes) {
  if (bytes.size() < sizeof(BatchHeader)) {
    throw Error(ErrorKind::kWire, "a batch is shorter than its header");
  }
  BatchHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kBatchMagic) throw Error(ErrorKind::kWire, "not a batch (wrong magic)");
  if (header.version != 1) {
    throw Error(ErrorKind::kWire, "batch of unknown version " + std::to_string(header.version));
  }
  const auto count = validate_entries(std::string_view(bytes).substr(sizeof header));
  if (count != header.count) {
    throw Error(ErrorKind::kWire, "a batch names another number of entries than it holds");
  }
  const auto digest = digest64(bytes);
  return std::shared_ptr<const Batch>(new Batch(std::move(bytes), digest));
}

void BatchBuilder::clear() {
  bytes_.assign(sizeof(BatchHeader), '\0');
  count_ = 0;
}

void BatchBuilder::append(const EntryHeader& header, std::string_view payload) {
  bytes_.append(reinterpret_cast<const char*>(&header), sizeof header);
  bytes_.append(payload);
  ++count_;
}

void BatchBuilder::append_raw(std::string_view entries, std::uint32_t count) {
  bytes_.append(entries);
  count_ += count;
}

BatchPtr BatchBuilder::seal(std::uint16_t origin, std::uint64_t incarnation,
                            std::uint64_t number) {
  const BatchHeader header{kBatchMagic, 1, origin, count_, 0, incarnation, number};
  std::memcpy(bytes_.data(), &header, sizeof header);
  std::string bytes;
  bytes.swap(bytes_);
  clear();
  return Batch::parse(std::move(bytes));
}

}  // namespace mpaxos
