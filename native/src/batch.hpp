// Batches: requests that are decided together. Format in docs/wire.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace mpaxos {

enum EntryKind : std::uint8_t {
  kEntryCommand = 0,
  kEntryOpen = 1,
  kEntryClose = 2,
  kEntryQuery = 3,
};

enum Status : std::uint8_t {
  kStatusOk = 0,
  kStatusFailed = 1,
  kStatusExpired = 2,
  kStatusNoSpace = 3,
  kStatusRefused = 4,
  kStatusOverloaded = 5,
  kStatusBad = 6,
  kStatusOpened = 7,
};

struct BatchHeader {
  std::uint32_t magic;
  std::uint16_t version;
  std::uint16_t origin;
  std::uint32_t count;
  std::uint32_t reserved;
  std::uint64_t incarnation;
  std::uint64_t number;
};
static_assert(sizeof(BatchHeader) == 32);

struct EntryHeader {
  std::uint64_t session;
  std::uint64_t sequence;
  std::uint64_t lowest;
  std::uint32_t length;
  std::uint8_t kind;
  std::uint8_t reserved[3];
};
static_assert(sizeof(EntryHeader) == 32);

inline constexpr std::uint32_t kBatchMagic = 0x3162506d;  // "mPb1"

// One request inside a batch; `payload` points into the batch.
struct Entry {
  EntryHeader header;
  std::string_view payload;
};

// Walks entries that were validated before. Usage: for (EntryCursor c(batch); c.next(entry);) ...
class Batch;
class EntryCursor {
 public:
  explicit EntryCursor(const Batch& batch);
  bool next(Entry& entry);

 private:
  const char* at_;
  const char* end_;
};

// Immutable bytes of one batch with its digest; shared by reference counting. Knowing its own
// counter lets a batch come back from Python without owning the Python object: dropping the last
// reference then needs no GIL.
class Batch : public std::enable_shared_from_this<Batch> {
 public:
  // Takes over `bytes`, which must be a well-formed batch; throws Error(kWire) otherwise.
  static std::shared_ptr<const Batch> parse(std::string bytes);

  const BatchHeader& header() const { return header_; }
  std::uint64_t digest() const { return digest_; }
  std::string_view bytes() const { return bytes_; }

 private:
  Batch(std::string bytes, std::uint64_t digest);
  std::string bytes_;
  BatchHeader header_;
  std::uint64_t digest_;
};
using BatchPtr = std::shared_ptr<const Batch>;

// Assembles a batch from entries that arrive one after the other.
class BatchBuilder {
 public:
  BatchBuilder() { clear(); }
  void append(const EntryHeader& header, std::string_view payload);
  // Appends `count` entries already in wire form; the caller has validated them.
  void append_raw(std::string_view entries, std::uint32_t count);
  std::uint32_t count() const { return count_; }
  std::size_t size() const { return bytes_.size(); }
  // Seals what was appended and starts anew.
  BatchPtr seal(std::uint16_t origin, std::uint64_t incarnation, std::uint64_t number);

 private:
  void clear();
  std::string bytes_;
  std::uint32_t count_ = 0;
};

// Checks that `bytes` is a run of well-formed entries and counts them; throws Error(kWire).
std::uint32_t validate_entries(std::string_view bytes);

}  // namespace mpaxos
