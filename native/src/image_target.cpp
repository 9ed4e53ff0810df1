#include "image_target.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "checksum.hpp"
#include "error.hpp"
#include "kv.hpp"

namespace mpaxos {
namespace {

constexpr std::uint32_t kMaxWindow = 1024;

#ifdef MADV_POPULATE_WRITE
constexpr int kPopulateRead = MADV_POPULATE_READ;
constexpr int kPopulateWrite = MADV_POPULATE_WRITE;
#else
constexpr int kPopulateRead = 22;  // of Linux 5.14; older ones refuse them
constexpr int kPopulateWrite = 23;
#endif
constexpr std::size_t kBytesPerReservation = 512;  // two for an item of some 1 KiB
constexpr std::uint64_t kAhead = 8 << 20;
constexpr std::uint64_t kMapped = 4096;  // what its address and length are multiples of

std::uint32_t crc_of(const Installation& state) {
  return crc32c({reinterpret_cast<const char*>(&state), offsetof(Installation, crc)});
}

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorKind::kImage,
              what + ". Nothing of the chunk was installed; if it comes again, take a new image "
                     "and install it in a new pool");
}

void require(bool condition, const char* what) {
  if (!condition) refuse(std::string("the image does not fit together: ") + what);
}

// Big-endian, so that the order of keys is that of numbers.
std::string key_of(std::uint64_t offset) {
  const auto swapped = __builtin_bswap64(offset);
  return {reinterpret_cast<const char*>(&swapped), sizeof swapped};
}

}  // namespace

ImageTarget::ImageTarget(FilePool& pool, bool larger)
    : pool_(pool), root_(&pool.engine_root()), larger_(larger) {
  keep_freed_memory();
  if (!pool.installing()) {
    throw Error(ErrorKind::kImage,
                "the pool was not created to install an image in it, or has a complete one");
  }
  const auto offset = read_word(root_->installing, "installation");
  if (offset % 8 != 0 || offset == 0 || offset > pool.size() - sizeof(Installation)) {
    throw Error(ErrorKind::kStorageCorrupt, "the pool's installation leads outside");
  }
  state_ = reinterpret_cast<Installation*>(base() + offset);
  const bool fresh = state_->next == 0 && state_->crc == 0;
  if (!fresh && state_->crc != crc_of(*state_)) {
    throw Error(ErrorKind::kStorageCorrupt, "the pool's installation does not match its checksum");
  }
}

Installation ImageTarget::progress() const {
  pool_.handle();  // throws when the pool was closed
  return complete_ ? Installation{} : *state_;
}

void ImageTarget::expect(const ChunkReader& reader) const {
  const auto& header = reader.header();
  if (state_->next > 0 && header.image != state_->image) {
    refuse("the chunk is of another image");
  }
  if (header.number != state_->next) {
    refuse("chunk " + std::to_string(header.number) + " came where chunk " +
           std::to_string(state_->next) + " is expected");
  }
}

bool ImageTarget::install(const ImageChunk& chunk, const std::optional<Promise>& promise) {
  pool_.handle();  // throws when the pool was closed
  if (complete_) refuse("the image is complete already");
  auto reader = chunk.reader();
  expect(reader);
  numbers_.fill(nullptr);
  try {
    complete_ = install_all(chunk, reader, promise);
  } catch (...) {
    for (auto& appender : appenders_) appender.reset();  // what they know was taken back
    throw;
  }
  if (complete_) {
    pool_.reload();
  } else {
    prepare_memory();
  }
  return complete_;
}

// All of the chunk, or nothing. True when it was the last one.
bool ImageTarget::install_all(const ImageChunk& chunk, ChunkReader& reader,
                              const std::optional<Promise>& promise) {
  Record record{};
  Transaction tx(pool_.handle());
  tx.expect(chunk.bytes().size() / kBytesPerReservation);
  tx.add(state_, sizeof *state_);
  install_records(tx, reader, record);
  if (reader.final()) {
    verify(record.end, record.counts);
    finish(tx, record.end, promise);
  } else {
    state_->image = reader.header().image;
    state_->next = reader.header().number + 1;
    state_->slot = reader.header().slot;
    state_->bytes += chunk.bytes().size();
    state_->crc = crc_of(*state_);
  }
  tx.commit();
  return reader.final();
}

// Maps what the next chunks will be written to: the allocator goes through an empty pool from front
// to back, and one system call for thousands of pages takes a fifth of the time that their faults
// take one by one. To be read, many pages are mapped at once if they are in memory, and on a tmpfs
// they can be written then; the second call does what is left. It is no more than help: where it
// fails, nothing depends on it.
void ImageTarget::prepare_memory() {
  std::uint64_t reached = 0;
  for (const auto& appender : appenders_) {
    if (appender) reached = std::max(reached, appender->reached());
  }
  if (reached + kAhead / 2 <= prepared_ || reached == 0) return;
  const auto from = std::max(prepared_, reached) / kMapped * kMapped;
  const auto to = std::min(reached + kAhead, pool_.size()) / kMapped * kMapped;
  if (from < to) {
    ::madvise(base() + from, to - from, kPopulateRead);
    ::madvise(base() + from, to - from, kPopulateWrite);
  }
  prepared_ = to;
}

// All of them, and the trees are whole again.
void ImageTarget::install_records(Transaction& tx, ChunkReader& reader, Record& record) {
  while (reader.next(record)) {
    apply(tx, record);
    ++state_->records;
  }
  for (auto& appender : appenders_) {
    if (appender) appender->finish();
  }
}

void ImageTarget::apply(Transaction& tx, const Record& record) {
  switch (record.kind) {
    case RecordKind::kHead: {
      const auto& here = pool_.limits();
      const auto& there = record.limits;
      const bool fits = there.state_limit == here.state_limit ||
                        (larger_ && there.state_limit < here.state_limit);
      if (!fits || there.max_sessions != here.max_sessions ||
          there.max_reply_slots != here.max_reply_slots) {
        refuse("the image is of a replica with other limits (state, sessions or reply slots): "
               "create the pool with the limits of the cluster");
      }
      return;
    }
    case RecordKind::kContainer: name(tx, record.container, record.bytes); return;
    case RecordKind::kPut: put(tx, record.container, record.key, record.item); return;
    case RecordKind::kErase: erase(tx, record.container, record.key); return;
    case RecordKind::kStage: stage(tx, record.offset, record.bytes); return;
    case RecordKind::kPutStaged: {
      const auto value = take_staged(tx, record.offset);
      const auto leaf = Leaf::of(record.key, value);
      std::string item(reinterpret_cast<const char*>(&leaf), sizeof leaf);
      item.append(record.key).append(value);
      put(tx, record.container, record.key, item);
      appender_of(*numbers_[record.container]).write();  // it is only here
      return;
    }
    case RecordKind::kSession: put_session(tx, record.session); return;
    case RecordKind::kGone: remove_session(tx, record.session.place); return;
    case RecordKind::kReply: put_reply(tx, record.reply, record.bytes); return;
    case RecordKind::kReplyStaged:
      put_reply(tx, record.reply, take_staged(tx, record.offset));
      return;
    case RecordKind::kEnd:
      for (const auto& count : record.counts) {
        // Empty ones too, and they may not have been named before.
        if (container_called(count.name)->name[0] == '\0') name(tx, 0, count.name);
      }
      return;
  }
}

// ------------------------------------------------------------------ containers

// The container of that name, or the first unused place.
ContainerRoot* ImageTarget::container_called(std::string_view name) {
  for (auto& root : root_->containers) {
    if (root.name[0] == '\0' || name == root.name) return &root;
  }
  require(false, "it has more containers than a pool can hold");
  return nullptr;
}

void ImageTarget::name(Transaction& tx, std::uint8_t number, std::string_view name) {
  auto* root = container_called(name);
  if (root->name[0] == '\0') {
    tx.add(root, sizeof *root);
    std::memset(root, 0, sizeof *root);
    std::memcpy(root->name, name.data(), name.size());
    root->check = container_check(*root);
  }
  numbers_[number] = root;
}

TreeAppender& ImageTarget::appender_of(const ContainerRoot& root) {
  const auto number = static_cast<std::size_t>(&root - root_->containers);
  auto& appender = appenders_[number];
  if (!appender) appender.emplace(pool_, root_->containers[number]);
  return *appender;
}

// Items come in key order, but for those that changed behind the cursor of the sweep. `item`: as it
// is in the pool.
void ImageTarget::put(Transaction& tx, std::uint8_t container, std::string_view key,
                      std::string_view item) {
  auto& root = *numbers_[container];
  auto& appender = appender_of(root);
  const auto value = item.substr(sizeof(Leaf) + key.size());
  std::uint32_t crc;
  std::memcpy(&crc, item.data() + offsetof(Leaf, crc), sizeof crc);
  state_->items_sum += item_digest(root.name, key, crc);
  state_->used += kItemOverhead + key.size() + value.size();
  if (appender.append(tx, key, item)) return;
  appender.finish();
  Tree tree(pool_, root);
  const auto* found = tree.find(key);
  if (found != nullptr) discount(root, *found);
  if (found == nullptr || !Tree::fits(*found, value.size())) appender.forget();
  tree.put(tx, found, key, value);
}

void ImageTarget::discount(const ContainerRoot& root, const Leaf& leaf) {
  state_->items_sum -= item_digest(root.name, leaf.key(), leaf.crc_when_new());
  state_->used -= kItemOverhead + leaf.key_length + leaf.value_length;
}

void ImageTarget::erase(Transaction& tx, std::uint8_t container, std::string_view key) {
  auto& root = *numbers_[container];
  auto& appender = appender_of(root);
  appender.finish();
  appender.forget();
  Tree tree(pool_, root);
  const auto* found = tree.find(key);
  if (found == nullptr) return;
  discount(root, *found);
  tree.erase(tx, found);
}

void ImageTarget::stage(Transaction& tx, std::uint64_t offset, std::string_view part) {
  require(offset == state_->staged, "a part of a value is missing");
  const auto key = key_of(offset);
  Tree parts(pool_, state_->parts);
  require(!part.empty() && parts.find(key) == nullptr, "a part of a value came twice");
  parts.put(tx, nullptr, key, part);
  state_->staged += part.size();
}

std::string ImageTarget::take_staged(Transaction& tx, std::uint64_t length) {
  require(length == state_->staged && length <= UINT32_MAX, "a part of a value is missing");
  std::string value;
  value.reserve(length);
  Tree parts(pool_, state_->parts);
  while (state_->parts.count > 0) {
    const auto* part = Tree::Cursor(parts, {}).next();
    value.append(part->value());
    parts.erase(tx, part);
  }
  require(value.size() == length, "a part of a value is missing");
  state_->staged = 0;
  return value;
}

// ------------------------------------------------------------------ sessions

std::uint64_t& ImageTarget::place_in_table(std::uint32_t place) {
  require(place < pool_.limits().max_sessions, "a session is at a place that does not exist");
  return reinterpret_cast<std::uint64_t*>(base() + root_->session_table)[place];
}

SessionObject* ImageTarget::session_at(std::uint64_t offset) {
  if (offset % 8 != 0 || offset > pool_.size() - sizeof(SessionObject)) {
    throw Error(ErrorKind::kStorageCorrupt, "a session in the pool leads outside");
  }
  return reinterpret_cast<SessionObject*>(base() + offset);
}

void ImageTarget::put_session(Transaction& tx, const SessionRecord& record) {
  require(record.id != 0 && record.window >= 1 && record.window <= kMaxWindow,
          "a session is impossible");
  auto& entry = place_in_table(record.place);
  if (entry != 0) {
    auto* object = session_at(entry);
    if (object->id == record.id) {
      require(object->window == record.window, "a session changed its window");
      write_session(tx, *object, record.lowest, record.used);
      return;
    }
    remove_session(tx, record.place);
  }
  tx.add(&entry, sizeof entry);
  entry = new_session(tx, record.id, record.window, record.lowest, record.used);
}

void ImageTarget::remove_session(Transaction& tx, std::uint32_t place) {
  auto& entry = place_in_table(place);
  if (entry == 0) return;
  free_session(tx, base(), *session_at(entry));
  tx.add(&entry, sizeof entry);
  entry = 0;
}

void ImageTarget::put_reply(Transaction& tx, const ReplyRecord& record, std::string_view payload) {
  const auto entry = place_in_table(record.place);
  require(entry != 0, "a reply came before its session");
  auto* object = session_at(entry);
  require(object->id == record.session, "a reply is of another session than its place has");
  write_cell(tx, base(), object->cells()[record.sequence % object->window],
             {record.sequence, record.lowest, record.used, record.status, payload});
}

// ------------------------------------------------------------------ the end

// Counts, sizes and sums of what is in the pool, against what the source had. What was installed
// was added up then: reading it all again would hold up the switch by half a second per GiB, and
// show no more than each read of an item shows that does not match its checksum.
void ImageTarget::verify(const EndRecord& end, const std::vector<ContainerCount>& counts) {
  require(state_->parts.count == 0, "a value was not sent to its end");
  std::size_t named = 0;
  for (const auto& root : root_->containers) {
    if (root.name[0] == '\0') break;
    ++named;
    const auto expected = std::find_if(counts.begin(), counts.end(),
                                       [&](const auto& count) { return count.name == root.name; });
    require(expected != counts.end() && expected->items == root.count,
            "a container has not as many items as the source's");
  }
  require(named == counts.size(), "a container is named twice");
  require(state_->used == end.state_used, "the state has another size than the source's");
  require(state_->items_sum == end.items_sum, "the items are not those of the source");
  const Sessions sessions(pool_);
  require(sessions.count() == end.sessions && sessions.reply_slots() == end.reply_slots,
          "there are not as many sessions as the source has");
  require(sessions.summary() == end.sessions_sum, "the sessions are not those of the source");
}

void ImageTarget::finish(Transaction& tx, const EndRecord& end,
                         const std::optional<Promise>& promise) {
  auto& applied = root_->applied;
  tx.add(&applied, sizeof applied);
  applied.slot = end.slot;
  applied.digest = end.digest;
  applied.time = end.time;
  applied.state_used = end.state_used;
  applied.sessions = end.sessions;
  applied.reply_slots = end.reply_slots;
  applied.crc = crc32c({reinterpret_cast<const char*>(&applied), offsetof(AppliedRoot, crc)});
  pool_.end_installing(tx, end.slot, promise);
  tx.release(pmemobj_oid(state_));
}

}  // namespace mpaxos
