#include "image_format.hpp"

#include <malloc.h>
#include <xxhash.h>

#include <bit>

#include "checksum.hpp"
#include "error.hpp"
#include "pool.hpp"
#include "tree.hpp"

namespace mpaxos {

static_assert(std::endian::native == std::endian::little, "formats are little-endian");

namespace {

constexpr std::size_t kCrcAt = offsetof(ChunkHeader, crc);

// `records`: the checksum of the records.
std::uint32_t crc_of(const ChunkHeader& header, std::uint32_t records) {
  const std::string_view bytes(reinterpret_cast<const char*>(&header), sizeof header);
  return crc32c(bytes.substr(kCrcAt + 4), crc32c(bytes.substr(0, kCrcAt), records));
}

[[noreturn]] void bad(const std::string& what) {
  throw Error(ErrorKind::kWire,
              "not a chunk of a state image: " + what + ". Nothing of it was installed");
}

Leaf read_leaf(std::string_view bytes) {
  Leaf leaf;
  std::memcpy(&leaf, bytes.data(), sizeof leaf);
  return leaf;
}

}  // namespace

std::uint64_t item_digest(std::string_view container, std::string_view key, std::uint32_t crc) {
  const auto named = XXH3_64bits_withSeed(container.data(), container.size(), crc);
  return XXH3_64bits_withSeed(key.data(), key.size(), named);
}

void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 64 << 20);
#endif
}

// ------------------------------------------------------------------ writing

ChunkWriter::ChunkWriter(std::size_t expected) : covered_(sizeof(ChunkHeader)) {
  bytes_.reserve(expected);
  bytes_.resize(sizeof(ChunkHeader));
}

void ChunkWriter::head(const ImageLimits& limits) {
  start(RecordKind::kHead);
  number(limits.state_limit);
  number(limits.max_sessions);
  number(limits.max_reply_slots);
}

void ChunkWriter::container(std::uint8_t container, std::string_view name) {
  start(RecordKind::kContainer);
  number(container);
  number(static_cast<std::uint8_t>(name.size()));
  bytes_.append(name);
}

// What was written since the last time is under the checksum.
void ChunkWriter::cover() {
  crc_ = crc32c(std::string_view(bytes_).substr(covered_), crc_);
  covered_ = bytes_.size();
}

void ChunkWriter::put(std::uint8_t container, std::string_view key, std::string_view value) {
  start(RecordKind::kPut);
  number(container);
  number(Leaf::of(key, value));
  cover();
  bytes_.append(key).append(value);
  covered_ = bytes_.size();
}

void ChunkWriter::put(std::uint8_t container, const Leaf& leaf) {
  if (leaf.value_capacity != Leaf::capacity_for(leaf.value_length)) {
    return put(container, leaf.key(), leaf.value());
  }
  start(RecordKind::kPut);
  number(container);
  number(leaf);
  cover();
  bytes_.append(reinterpret_cast<const char*>(&leaf + 1), leaf.size() - sizeof leaf);
  covered_ = bytes_.size();
}

void ChunkWriter::erase(std::uint8_t container, std::string_view key) {
  start(RecordKind::kErase);
  number(container);
  number(static_cast<std::uint32_t>(key.size()));
  bytes_.append(key);
}

void ChunkWriter::stage(std::uint64_t offset, std::string_view part) {
  start(RecordKind::kStage);
  number(offset);
  number(static_cast<std::uint32_t>(part.size()));
  bytes_.append(part);
}

void ChunkWriter::put_staged(std::uint8_t container, std::string_view key, std::uint64_t length) {
  start(RecordKind::kPutStaged);
  number(container);
  number(length);
  number(static_cast<std::uint32_t>(key.size()));
  bytes_.append(key);
}

void ChunkWriter::session(const SessionRecord& session) {
  start(RecordKind::kSession);
  number(session.place);
  number(session.window);
  number(session.id);
  number(session.lowest);
  number(session.used);
}

void ChunkWriter::gone(std::uint32_t place) {
  start(RecordKind::kGone);
  number(place);
}

void ChunkWriter::start(RecordKind kind, const ReplyRecord& reply) {
  start(kind);
  number(reply.place);
  number(reply.session);
  number(reply.sequence);
  number(reply.lowest);
  number(reply.used);
  number(reply.status);
}

void ChunkWriter::reply(const ReplyRecord& reply, std::string_view payload) {
  start(RecordKind::kReply, reply);
  number(static_cast<std::uint32_t>(payload.size()));
  bytes_.append(payload);
}

void ChunkWriter::reply_staged(const ReplyRecord& reply, std::uint64_t length) {
  start(RecordKind::kReplyStaged, reply);
  number(length);
}

void ChunkWriter::end(const EndRecord& end, const std::vector<ContainerCount>& counts) {
  start(RecordKind::kEnd);
  for (const auto value : {end.slot, end.digest, end.time, end.state_used, end.sessions,
                           end.reply_slots, end.items_sum, end.sessions_sum}) {
    number(value);
  }
  number(static_cast<std::uint8_t>(counts.size()));
  for (const auto& count : counts) {
    number(static_cast<std::uint8_t>(count.name.size()));
    bytes_.append(count.name);
    number(count.items);
  }
}

std::string ChunkWriter::seal(std::uint64_t image, std::uint64_t number, std::uint64_t slot,
                              bool final) {
  ChunkHeader header{};
  header.magic = kChunkMagic;
  header.version = kChunkVersion;
  header.flags = final ? kChunkFinal : 0;
  header.length = static_cast<std::uint32_t>(bytes_.size() - sizeof header);
  header.image = image;
  header.number = number;
  header.slot = slot;
  invariant(bytes_.size() <= kMaxChunkLength, "a chunk of an image became too long");
  cover();
  header.crc = crc_of(header, crc_);
  std::memcpy(bytes_.data(), &header, sizeof header);
  return std::move(bytes_);
}

// ------------------------------------------------------------------ reading

std::size_t ChunkReader::length_of(std::string_view bytes) {
  if (bytes.size() < sizeof(ChunkHeader)) bad("it is shorter than a header");
  ChunkHeader header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kChunkMagic) bad("its magic number is wrong");
  if (header.version != kChunkVersion) {
    bad("it has version " + std::to_string(header.version) + " and this program reads version " +
        std::to_string(kChunkVersion) + "; run the same version on all replicas");
  }
  if (header.length > kMaxChunkLength - sizeof header) bad("it is longer than any chunk may be");
  return sizeof header + header.length;
}

ChunkHeader ChunkReader::header_of(std::string_view chunk) {
  if (length_of(chunk) != chunk.size()) bad("it is cut short or too long");
  ChunkHeader header;
  std::memcpy(&header, chunk.data(), sizeof header);
  return header;
}

ChunkReader::ChunkReader(std::string_view chunk)
    : header_(header_of(chunk)), rest_(chunk.substr(sizeof header_)) {
  if ((header_.flags & ~kChunkFinal) != 0) bad("it has unknown flags");
  verify();
}

// Every byte is looked at once: an item's own checksum, which goes with it into the pool, serves
// for its way as well.
void ChunkReader::verify() const {
  auto reader = *this;
  Record record{};
  std::uint32_t crc = 0;
  auto from = rest_;
  const auto cover = [&](const char* upto) {
    crc = crc32c(from.substr(0, static_cast<std::size_t>(upto - from.data())), crc);
    from = reader.rest_;
  };
  while (reader.next(record)) {
    if (record.kind != RecordKind::kPut) continue;
    cover(record.key.data());
    const auto leaf = read_leaf(record.item);
    const auto lengths = crc32c(record.item.substr(0, offsetof(Leaf, crc)));
    if (leaf.crc != crc32c(record.item.substr(sizeof leaf), lengths)) {
      bad("an item does not match its checksum");
    }
  }
  cover(from.data() + from.size());
  if (header_.crc != crc_of(header_, crc)) bad("its checksum is wrong");
}

std::string_view ChunkReader::take(std::size_t count) {
  if (count > rest_.size()) bad("a record is cut short");
  const auto taken = rest_.substr(0, count);
  rest_.remove_prefix(count);
  return taken;
}

template <typename T>
T ChunkReader::number() {
  T value;
  std::memcpy(&value, take(sizeof value).data(), sizeof value);
  return value;
}

void ChunkReader::check_container(std::uint8_t number) const {
  if (number >= kMaxContainers || (named_ >> number & 1) == 0) bad("a container has no name");
}

void ChunkReader::read_key(Record& record) {
  const auto key = number<std::uint32_t>();
  if (key > kMaxKey) bad("a key is too long");
  record.key = take(key);
}

void ChunkReader::read_item(Record& record) {
  const auto all = rest_;
  const auto leaf = read_leaf(take(sizeof(Leaf)));
  if (leaf.key_length > kMaxKey) bad("a key is too long");
  record.key = take(leaf.key_length);
  record.bytes = take(leaf.value_length);
  if (leaf.value_capacity != Leaf::capacity_for(leaf.value_length)) {
    bad("an item has another room than a new one");
  }
  record.item = all.substr(0, leaf.size());
  // The next record: who reads these does not come near it.
  __builtin_prefetch(rest_.data());
}

void ChunkReader::read_reply(Record& record) {
  auto& reply = record.reply;
  reply.place = number<std::uint32_t>();
  reply.session = number<std::uint64_t>();
  reply.sequence = number<std::uint64_t>();
  reply.lowest = number<std::uint64_t>();
  reply.used = number<std::uint64_t>();
  reply.status = number<std::uint8_t>();
}

void ChunkReader::read_end(Record& record) {
  auto& end = record.end;
  for (auto* field : {&end.slot, &end.digest, &end.time, &end.state_used, &end.sessions,
                      &end.reply_slots, &end.items_sum, &end.sessions_sum}) {
    *field = number<std::uint64_t>();
  }
  const auto count = number<std::uint8_t>();
  if (count > kMaxContainers) bad("too many containers");
  record.counts.clear();
  for (int i = 0; i < count; ++i) {
    const auto name = take(number<std::uint8_t>());
    if (name.empty() || name.size() >= sizeof(ContainerRoot::name)) bad("a name is too long");
    record.counts.push_back({name, number<std::uint64_t>()});
  }
}

bool ChunkReader::next(Record& record) {
  if (rest_.empty()) {
    if (first_ && header_.number == 0) bad("its head is missing");
    if (ended_ != final()) bad("its end is missing");
    return false;
  }
  if (ended_) bad("something follows its end");
  record.kind = static_cast<RecordKind>(number<std::uint8_t>());
  if ((record.kind == RecordKind::kHead) != (first_ && header_.number == 0)) {
    bad("its head is not where it belongs");
  }
  first_ = false;
  switch (record.kind) {
    case RecordKind::kHead:
      record.limits.state_limit = number<std::uint64_t>();
      record.limits.max_sessions = number<std::uint64_t>();
      record.limits.max_reply_slots = number<std::uint64_t>();
      return true;
    case RecordKind::kContainer:
      record.container = number<std::uint8_t>();
      record.bytes = take(number<std::uint8_t>());
      if (record.container >= kMaxContainers || record.bytes.empty() ||
          record.bytes.size() >= sizeof(ContainerRoot::name) ||
          record.bytes.find('\0') != std::string_view::npos) {
        bad("a container is impossible");
      }
      named_ |= std::uint64_t{1} << record.container;
      return true;
    case RecordKind::kPut:
      record.container = number<std::uint8_t>();
      check_container(record.container);
      read_item(record);
      return true;
    case RecordKind::kErase:
      record.container = number<std::uint8_t>();
      check_container(record.container);
      read_key(record);
      return true;
    case RecordKind::kStage:
      record.offset = number<std::uint64_t>();
      record.bytes = take(number<std::uint32_t>());
      return true;
    case RecordKind::kPutStaged:
      record.container = number<std::uint8_t>();
      check_container(record.container);
      record.offset = number<std::uint64_t>();
      read_key(record);
      return true;
    case RecordKind::kSession:
      record.session.place = number<std::uint32_t>();
      record.session.window = number<std::uint32_t>();
      record.session.id = number<std::uint64_t>();
      record.session.lowest = number<std::uint64_t>();
      record.session.used = number<std::uint64_t>();
      return true;
    case RecordKind::kGone: record.session.place = number<std::uint32_t>(); return true;
    case RecordKind::kReply:
      read_reply(record);
      record.bytes = take(number<std::uint32_t>());
      return true;
    case RecordKind::kReplyStaged:
      read_reply(record);
      record.offset = number<std::uint64_t>();
      return true;
    case RecordKind::kEnd:
      read_end(record);
      ended_ = true;
      return true;
  }
  bad("a record is of an unknown kind");
}

}  // namespace mpaxos
