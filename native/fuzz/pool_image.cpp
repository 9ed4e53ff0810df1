#include "pool_image.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>

#include "check.hpp"
#include "checksum.hpp"
#include "engine.hpp"
#include "sessions.hpp"
#include "wire.hpp"

namespace mpaxos::fuzz {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr int kKeys = 48;
constexpr std::uint64_t kBranchTag = 1;

std::string key_of(int i) {
  // Prefixes of each other, and long common beginnings.
  const std::string beginning = i % 3 == 0 ? "" : "common/beginning/";
  return beginning + std::string(static_cast<std::size_t>(i % 5), 'k') + std::to_string(i);
}

std::string value_of(int i) {
  std::string value = "value " + std::to_string(i) + " ";
  value.resize(static_cast<std::size_t>(i * 67 % 900 + 8), static_cast<char>('a' + i % 26));
  return value;
}

template <typename T>
std::uint32_t crc_upto_field(const T& object, std::size_t size) {
  return crc32c({reinterpret_cast<const char*>(&object), size});
}

}  // namespace

PoolImage::PoolImage() {
  make_history();
  std::ifstream file(scratch_.path(), std::ios::binary);
  original_.assign(std::istreambuf_iterator<char>(file), {});
  require(original_.size() == kPoolSize, "the pool has its size");
  for (std::uint64_t page = 0; page < kPoolSize; page += kPage) {
    const auto bytes = std::string_view(original_).substr(page, kPage);
    if (bytes.find_first_not_of('\0') != std::string_view::npos) pages_.push_back(page);
  }
  bytes_ = original_;
  find_objects();
}

// Sessions with short and long replies, one that was closed, items that were put, replaced and
// deleted, a log that has gone around its ring.
void PoolImage::make_history() {
  const auto pool = scratch_.open();
  Engine engine(*pool);
  std::uint64_t sequence = 0;
  const auto run = [&](const std::vector<Request>& requests) {
    const auto slot = engine.slot() + 1;
    const auto batch = batch_of(requests, slot);
    pool->write(Promise{slot / 8 + 1, 1}, {{slot, slot / 8 + 1, 1, slot, batch}},
                slot > 12 ? slot - 12 : 0);
    return engine.apply_kv(slot, slot, batch);
  };
  for (auto& session : sessions_) {
    const std::uint32_t window = 8;
    const auto replies = run({{0, 1, 0, kEntryOpen, std::string(bytes_of(window))}});
    session = replies.at(0).payload.size() == 8 ? read_struct<std::uint64_t>(replies.at(0).payload)
                                                : 0;
    require(session != 0, "a session opens");
  }
  const auto ask = [&](const std::string& request) -> Request {
    ++sequence;
    return {sessions_[1], sequence, sequence > 6 ? sequence - 6 : 0, kEntryCommand, request};
  };
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i + 3 < kKeys; i += 2) {
      run({ask(put(key_of(i), value_of(i + round))), ask(put(key_of(i + 1), value_of(i))),
           ask(erase(key_of(i + round))), ask(get(key_of(i + 1)))});
    }
  }
  run({{sessions_[0], 0, 0, kEntryClose, ""}});
  run({{sessions_[2], 1, 1, kEntryCommand, put("last", "one")}});
}

void PoolImage::find_objects() {
  std::uint64_t root_offset = 0;
  {
    const auto pool = scratch_.open();
    const auto* base = reinterpret_cast<const char*>(pool->handle());
    root_offset = static_cast<std::uint64_t>(
                      reinterpret_cast<const char*>(&pool->engine_root()) - base) -
                  offsetof(PoolRoot, engine);
  }
  const auto& root = *at<PoolRoot>(root_offset);
  const auto add = [&](std::uint64_t offset, std::uint64_t size, Seal seal) {
    objects_.push_back({root_offset + offset, size, seal});
  };
  add(offsetof(PoolRoot, header), sizeof(PoolHeader), Seal::kHeader);
  add(offsetof(PoolRoot, promises), sizeof(PromiseCell), Seal::kPromise);
  add(offsetof(PoolRoot, promises) + sizeof(PromiseCell), sizeof(PromiseCell), Seal::kPromise);
  for (const auto word : {offsetof(PoolRoot, promise_word), offsetof(PoolRoot, tail),
                          offsetof(PoolRoot, head), offsetof(PoolRoot, truncated)}) {
    add(word, sizeof(Word), Seal::kWord);
  }
  const auto engine = offsetof(PoolRoot, engine);
  add(engine + offsetof(EngineRoot, applied), sizeof(AppliedRoot), Seal::kApplied);
  add(engine + offsetof(EngineRoot, session_table), sizeof(std::uint64_t), Seal::kNone);
  for (std::size_t i = 0; i < 2; ++i) {  // one in use, one not
    add(engine + offsetof(EngineRoot, containers) + i * sizeof(ContainerRoot),
        sizeof(ContainerRoot), Seal::kContainer);
  }
  find_records(root.header.log_offset, read_word(root.head, "head"), read_word(root.tail, "tail"));
  find_sessions(root.engine.session_table);
  find_items(root.engine.containers[0].tree);
  // Of what is libpmemobj's own only its header: the rest (lanes, heap) it takes on faith, and a
  // wrong bit there may end in a SIGSEGV inside pmemobj_open. See docs/testing.md.
  objects_.push_back({0, kPage, Seal::kNone});
}

void PoolImage::find_items(std::uint64_t reference) {
  if (reference & kBranchTag) {
    const auto offset = reference - kBranchTag;
    objects_.push_back({offset, sizeof(Branch), Seal::kBranch});
    const auto branch = *at<Branch>(offset);
    for (const auto child : branch.child) find_items(child);
    return;
  }
  const auto& leaf = *at<Leaf>(reference);
  objects_.push_back(
      {reference, sizeof(Leaf) + leaf.key_length + leaf.value_length, Seal::kLeaf});
}

void PoolImage::find_records(std::uint64_t log_offset, std::uint64_t head, std::uint64_t tail) {
  while (head < tail) {
    const auto offset = log_offset + head * kUnit % kLogSize;
    const auto& header = *at<RecordHeader>(offset);
    const bool skip = header.magic == kSkipMagic;
    objects_.push_back({offset, sizeof header + (skip ? 0 : header.length), Seal::kRecord});
    head += 1 + (header.length + kUnit - 1) / kUnit;
  }
}

void PoolImage::find_sessions(std::uint64_t table) {
  for (std::uint64_t i = 0; i < kPoolLimits.max_sessions; ++i) {
    objects_.push_back({table + i * 8, 8, Seal::kNone});
    const auto offset = *at<std::uint64_t>(table + i * 8);
    if (offset == 0) continue;
    objects_.push_back({offset, sizeof(SessionObject), Seal::kSession});
    auto* session = at<SessionObject>(offset);
    for (std::uint32_t c = 0; c < session->window; ++c) {
      const auto& cell = session->cells()[c];
      objects_.push_back(
          {offset + sizeof *session + c * sizeof cell, sizeof cell, Seal::kCell});
      if (cell.blob != 0) objects_.push_back({cell.blob, cell.length, Seal::kNone});
    }
  }
}

void PoolImage::make(const Edit& edit, bool seal) {
  const auto& object = objects_[edit.object % objects_.size()];
  const auto offset = object.offset + edit.offset % object.size;
  if (!seal || edit.how % 4 == 0) {
    bytes_[offset] = static_cast<char>(bytes_[offset] ^ 1 << edit.bit % 8);
    if (seal) put_right(object);
    return;
  }
  // Four or eight bytes that mean something: another object's place, an extreme, a small number.
  const auto& other = objects_[edit.operand % objects_.size()];
  const std::uint64_t extremes[] = {0,         ~0ULL,         kPoolSize,     kPoolSize - 8,
                                    1ULL << 31, (1ULL << 32) - 1, 1ULL << 63, edit.operand};
  const auto width = edit.bit % 2 == 0 ? sizeof(std::uint64_t) : sizeof(std::uint32_t);
  const auto last = (object.offset + object.size) / 4 * 4 - width;
  const auto aligned = std::max(object.offset, std::min(offset / 4 * 4, last));
  std::uint64_t value = 0;
  switch (edit.how % 4) {
    case 1: value = other.offset; break;
    case 2: value = other.offset + kBranchTag; break;
    default: value = extremes[edit.operand % std::size(extremes)]; break;
  }
  std::memcpy(bytes_.data() + aligned, &value, width);
  put_right(object);
}

void PoolImage::put_right(const Object& object) {
  const auto at_object = object.offset;
  switch (object.seal) {
    case Seal::kNone: break;
    case Seal::kHeader: {
      auto* header = at<PoolHeader>(at_object);
      header->crc = crc_upto_field(*header, offsetof(PoolHeader, crc));
      break;
    }
    case Seal::kPromise: {
      auto* cell = at<PromiseCell>(at_object);
      cell->crc = crc_upto_field(*cell, offsetof(PromiseCell, crc));
      break;
    }
    case Seal::kWord: {
      auto* word = at<Word>(at_object);
      *word = make_word(word->bits & ((1ULL << 48) - 1));
      break;
    }
    case Seal::kApplied: {
      auto* applied = at<AppliedRoot>(at_object);
      applied->crc = crc_upto_field(*applied, offsetof(AppliedRoot, crc));
      break;
    }
    case Seal::kRecord: {
      auto* header = at<RecordHeader>(at_object);
      const auto begin = at_object + sizeof *header;
      const auto length = std::min<std::uint64_t>(header->length, kPoolSize - begin);
      header->digest = digest64(std::string_view(bytes_).substr(begin, length));
      header->crc = crc_upto_field(*header, offsetof(RecordHeader, crc));
      break;
    }
    case Seal::kContainer: {
      auto* container = at<ContainerRoot>(at_object);
      container->check = container_check(*container);
      break;
    }
    case Seal::kBranch: {
      auto* branch = at<Branch>(at_object);
      branch->check = digest64({bytes_.data() + at_object, offsetof(Branch, check)});
      break;
    }
    case Seal::kLeaf: {
      auto* leaf = at<Leaf>(at_object);
      const auto length = std::min(std::uint64_t{leaf->key_length} + leaf->value_length,
                                   kPoolSize - at_object - sizeof *leaf);
      leaf->crc = crc32c(std::string_view(bytes_).substr(at_object + sizeof *leaf, length),
                         crc_upto_field(*leaf, offsetof(Leaf, crc)));
      break;
    }
    case Seal::kSession: {
      auto* session = at<SessionObject>(at_object);
      session->crc = 0;
      session->crc = crc_upto_field(*session, sizeof *session);
      break;
    }
    case Seal::kCell: {
      auto* cell = at<Cell>(at_object);
      cell->crc = 0;
      std::string_view payload(cell->payload, std::min<std::size_t>(cell->length, 20));
      if (cell->length > 20 && cell->blob < kPoolSize) {
        payload = std::string_view(bytes_).substr(cell->blob, cell->length);
      }
      cell->crc = crc32c(payload, crc_upto_field(*cell, sizeof *cell));
      break;
    }
  }
}

void PoolImage::write(const std::vector<Edit>& edits, bool seal) {
  for (const auto& edit : edits) make(edit, seal);
  const int file = ::open(scratch_.path().c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
  require(file >= 0 && ::ftruncate(file, kPoolSize) == 0, "the image can be written");
  for (const auto page : pages_) {
    const auto done = ::pwrite(file, bytes_.data() + page, kPage, static_cast<off_t>(page));
    require(done == static_cast<ssize_t>(kPage), "the image can be written");
    std::memcpy(bytes_.data() + page, original_.data() + page, kPage);
  }
  ::close(file);
}

bool is_storage_error(const Error& error) {
  switch (error.kind()) {
    case ErrorKind::kStorageCorrupt:
    case ErrorKind::kStorageForeign:
    case ErrorKind::kStorageVersion: return true;
    default: return false;
  }
}

std::vector<std::string> everything(FilePool& pool) {
  std::vector<std::string> readings;
  const auto read = [&](auto what) {
    try {
      readings.push_back(what());
    } catch (const Error& error) {
      if (!is_storage_error(error)) throw;
      readings.push_back(kDamaged);
    }
  };
  const auto text = [](auto... numbers) { return ((std::to_string(numbers) + " ") + ...); };
  const auto promised = pool.promised();
  readings.push_back(text(promised.round, promised.leader, pool.log().truncated_upto(),
                          pool.log().room()) + pool.header().machine);
  for (const auto& [slot, round, leader] : pool.log().slots()) {
    read([&, slot = slot, round = round] {
      const auto record = pool.log().read(slot);
      require(record.has_value(), "a listed slot has a record");
      return text(slot, round, record->time) + std::string(record->batch->bytes());
    });
  }
  Engine engine(pool);
  readings.push_back(text(engine.slot(), engine.digest(), engine.state_used()));
  const auto map = engine.tree(engine.container("data"));
  readings.push_back(text(map.count()));
  for (int i = 0; i < kKeys + 4; ++i) {  // some of them absent
    read([&] {
      const auto* leaf = map.find(key_of(i));
      return leaf == nullptr ? std::string("absent") : "value " + std::string(leaf->value());
    });
  }
  for (const auto* start : {"", "common/", "k", "~"}) {
    read([&] {
      std::string keys;
      Tree::Cursor cursor(map, start);
      while (const auto* leaf = cursor.next()) keys.append(leaf->key()).push_back('\n');
      return keys;
    });
  }
  read([&] { return text(engine.state_digest()); });
  return readings;
}

}  // namespace mpaxos::fuzz
