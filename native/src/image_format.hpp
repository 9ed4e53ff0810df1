// The chunks of an image of the whole state; the format is described in docs/image.md.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace mpaxos {

struct Leaf;

inline constexpr std::uint32_t kChunkMagic = 0x3149506d;  // "mPI1"
inline constexpr std::uint16_t kChunkVersion = 2;
inline constexpr std::uint16_t kChunkFinal = 1;  // flag: nothing follows

// What a source may be asked for. A chunk may be longer by one key and the names of containers.
inline constexpr std::size_t kMinChunk = 256;
inline constexpr std::size_t kMaxChunk = 4 << 20;
inline constexpr std::size_t kMaxChunkLength = kMaxChunk + (128 << 10);

struct ChunkHeader {
  std::uint32_t magic;
  std::uint16_t version;
  std::uint16_t flags;
  std::uint32_t length;  // of the records that follow, in bytes
  std::uint32_t crc;     // CRC-32C of the records, but for items that PUTs carry, which have their
                         // own; then of the header without this field
  std::uint64_t image;   // random, the same in all chunks of one image
  std::uint64_t number;  // of the chunk, from 0
  std::uint64_t slot;    // applied when the chunk was made
};
static_assert(sizeof(ChunkHeader) == 40);

enum class RecordKind : std::uint8_t {
  kHead = 1,        // limits; first record of chunk 0 and only there
  kContainer = 2,   // gives a container its number within this chunk
  kPut = 3,         // an item
  kErase = 4,       // no item of this key
  kStage = 5,       // a part of a value too long for one chunk
  kPutStaged = 6,   // an item whose value is what was staged
  kSession = 7,     // a session, without replies; replaces another one at its place
  kGone = 8,        // no session at this place
  kReply = 9,       // a reply that a session keeps
  kReplyStaged = 10,
  kEnd = 11,        // position and counts; last record of the final chunk and only there
};

struct ImageLimits {
  std::uint64_t state_limit;
  std::uint64_t max_sessions;
  std::uint64_t max_reply_slots;
};

struct SessionRecord {
  std::uint32_t place;
  std::uint32_t window;
  std::uint64_t id;
  std::uint64_t lowest;
  std::uint64_t used;
};

struct ReplyRecord {
  std::uint32_t place;
  std::uint64_t session;
  std::uint64_t sequence;
  std::uint64_t lowest;
  std::uint64_t used;
  std::uint8_t status;
};

// What the state has when the image is complete.
struct EndRecord {
  std::uint64_t slot;
  std::uint64_t digest;
  std::uint64_t time;
  std::uint64_t state_used;
  std::uint64_t sessions;
  std::uint64_t reply_slots;
  std::uint64_t items_sum;
  std::uint64_t sessions_sum;
};

struct ContainerCount {
  std::string_view name;
  std::uint64_t items;
};

// One record, whatever its kind; the views point into the chunk.
struct Record {
  RecordKind kind;
  std::uint8_t container;
  std::uint64_t offset;  // of a part; or the length of all that was staged
  std::string_view key;
  std::string_view bytes;  // value, part, payload, or a container's name
  std::string_view item;   // of a PUT: a Leaf, key and value, as they are in a pool when new
  ImageLimits limits;
  SessionRecord session;
  ReplyRecord reply;
  EndRecord end;
  std::vector<ContainerCount> counts;
};

// What one item adds to EndRecord::items_sum; the sum does not depend on an order. `crc` is what
// Leaf::crc is when the item is new: it stands for the value.
std::uint64_t item_digest(std::string_view container, std::string_view key, std::uint32_t crc);

// Chunks are allocated and freed by the thousand: from here on memory that is freed stays with the
// process, up to some 64 MiB, instead of going back to the system and coming back as page faults.
void keep_freed_memory();

// Builds one chunk. Sizes are the caller's to mind.
class ChunkWriter {
 public:
  explicit ChunkWriter(std::size_t expected);

  void head(const ImageLimits& limits);
  void container(std::uint8_t number, std::string_view name);
  void put(std::uint8_t container, std::string_view key, std::string_view value);
  // The same, of an item in a pool, whose checksum was verified.
  void put(std::uint8_t container, const Leaf& leaf);
  void erase(std::uint8_t container, std::string_view key);
  void stage(std::uint64_t offset, std::string_view part);
  void put_staged(std::uint8_t container, std::string_view key, std::uint64_t length);
  void session(const SessionRecord& session);
  void gone(std::uint32_t place);
  void reply(const ReplyRecord& reply, std::string_view payload);
  void reply_staged(const ReplyRecord& reply, std::uint64_t length);
  void end(const EndRecord& end, const std::vector<ContainerCount>& counts);

  std::size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.size() == sizeof(ChunkHeader); }
  std::string seal(std::uint64_t image, std::uint64_t number, std::uint64_t slot, bool final);

  // Bytes of a record beside its key and value.
  static constexpr std::size_t kPutSize = 1 + 1 + 4 * 4;
  static constexpr std::size_t kStageSize = 1 + 8 + 4;
  static constexpr std::size_t kSessionSize = 1 + 2 * 4 + 3 * 8;
  static constexpr std::size_t kReplySize = 1 + 4 + 4 * 8 + 1 + 4;

 private:
  template <typename T>
  void number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void start(RecordKind kind) { number(static_cast<std::uint8_t>(kind)); }
  void start(RecordKind kind, const ReplyRecord& reply);
  void cover();

  std::string bytes_;
  std::size_t covered_;  // bytes up to here are in crc_, or are not to be
  std::uint32_t crc_ = 0;  // of the records so far
};

// Reads a chunk from front to back. Everything throws kWire when the bytes are not a chunk; what
// needs no state to be known (order of records, lengths, containers named) is checked here.
class ChunkReader {
 public:
  // Checks all of it: header, length, every record and every checksum.
  explicit ChunkReader(std::string_view chunk);
  // All that was checked before: `header` is that of `chunk`.
  ChunkReader(std::string_view chunk, const ChunkHeader& header)
      : header_(header), rest_(chunk.substr(sizeof header)) {}

  const ChunkHeader& header() const { return header_; }
  bool final() const { return (header_.flags & kChunkFinal) != 0; }
  // False at the end.
  bool next(Record& record);
  // Length of the whole chunk that starts with these bytes of a header.
  static std::size_t length_of(std::string_view header);
  // The header of a whole chunk, of which only the length is checked.
  static ChunkHeader header_of(std::string_view chunk);

 private:
  template <typename T>
  T number();
  std::string_view take(std::size_t count);
  void read_key(Record& record);
  void read_item(Record& record);
  void verify() const;
  void read_reply(Record& record);
  void read_end(Record& record);
  void check_container(std::uint8_t number) const;

  ChunkHeader header_;
  std::string_view rest_;
  std::uint64_t named_ = 0;  // one bit per container
  bool first_ = true;
  bool ended_ = false;
};

}  // namespace mpaxos
