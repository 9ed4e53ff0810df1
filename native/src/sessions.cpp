#include "sessions.hpp"

#include <algorithm>
#include <cstring>

#include "checksum.hpp"
#include "error.hpp"

namespace mpaxos {
namespace {

constexpr std::uint32_t kMaxWindow = 1024;

std::uint32_t crc_of(const SessionObject& object) {
  auto copy = object;
  copy.crc = 0;
  return crc32c({reinterpret_cast<const char*>(&copy), sizeof copy});
}

std::uint32_t crc_of(const Cell& cell, std::string_view payload) {
  auto copy = cell;
  copy.crc = 0;
  const auto crc = crc32c({reinterpret_cast<const char*>(&copy), sizeof copy});
  return payload.size() <= sizeof cell.payload ? crc : crc32c(payload, crc);
}

[[noreturn]] void damaged(const char* what) {
  throw Error(ErrorKind::kStorageCorrupt,
              std::string("the session table in the pool is damaged: ") + what +
                  ". Restore this replica from a good copy");
}

// A cell that no reply was ever stored in is zero throughout: were only `set` looked at, one
// flipped bit would make a reply vanish and its command run twice.
void check_empty(const Cell& cell) {
  const std::string_view bytes(reinterpret_cast<const char*>(&cell), sizeof cell);
  if (bytes.find_first_not_of('\0') != std::string_view::npos) {
    damaged("an unused reply cell is not empty");
  }
}

// Whether a payload of this size may replace the one in `blob`: it fits, and wastes little.
bool takes(const char* blob, std::size_t size) {
  const auto room = pmemobj_alloc_usable_size(pmemobj_oid(blob));
  return size <= room && room <= 4 * size + 64;
}

Action action(Verdict verdict, std::uint32_t index, const Entry& entry) {
  Action made{};
  made.verdict = verdict;
  made.index = index;
  made.session = entry.header.session;
  made.sequence = entry.header.sequence;
  made.payload = entry.payload;
  made.text = "";
  return made;
}

}  // namespace

Sessions::Sessions(Pool& pool, const Watchers* watchers) : pool_(pool), watchers_(watchers) {
  const auto limit = static_cast<std::uint32_t>(pool.limits().max_sessions);
  const auto table_offset = pool.engine_root().session_table;
  if (table_offset == 0 || table_offset % 8 != 0 || table_offset > pool.size() - limit * 8ULL) {
    damaged("its table");
  }
  mirrors_.resize(limit);
  for (std::uint32_t place = 0; place < limit; ++place) {
    if (table()[place] != 0) load(place, table()[place]);
  }
  for (auto place = limit; place-- > 0;) {
    if (mirrors_[place].id == 0) free_.push_back(place);
  }
  std::vector<std::uint32_t> order;
  for (const auto& [id, place] : by_id_) order.push_back(place);
  std::sort(order.begin(), order.end(),
            [this](auto a, auto b) { return mirrors_[a].used < mirrors_[b].used; });
  for (const auto place : order) {
    mirrors_[place].recency = recency_.insert(recency_.end(), place);
  }
}

std::uint64_t* Sessions::table() const {
  return reinterpret_cast<std::uint64_t*>(base() + pool_.engine_root().session_table);
}

SessionObject* Sessions::object_at(std::uint64_t offset) const {
  if (offset % 8 != 0 || offset == 0 || offset > pool_.size() - sizeof(SessionObject)) {
    damaged("a reference leads outside");
  }
  return reinterpret_cast<SessionObject*>(base() + offset);
}

void Sessions::load(std::uint32_t place, std::uint64_t offset) {
  auto* object = object_at(offset);
  if (object->crc != crc_of(*object) || object->window == 0 || object->window > kMaxWindow ||
      object->window * sizeof(Cell) > pool_.size() - offset - sizeof(SessionObject)) {
    damaged("a session does not match its checksum");
  }
  auto& mirror = mirrors_[place];
  mirror.id = object->id;
  mirror.window = object->window;
  mirror.offset = offset;
  mirror.lowest = object->lowest;
  mirror.used = object->used;
  mirror.sequences.assign(object->window, 0);
  for (std::uint32_t i = 0; i < object->window; ++i) {
    const auto& cell = object->cells()[i];
    if (!cell.set) {
      check_empty(cell);
      continue;
    }
    check(cell);
    const auto& root = pool_.engine_root();
    // The position of an image comes last.
    if (root.installing.bits == 0 && cell.used >> 16 > root.applied.slot) {
      damaged("a reply is of a slot that was not applied");
    }
    mirror.lowest = std::max(mirror.lowest, cell.lowest);
    mirror.used = std::max(mirror.used, cell.used);
    mirror.sequences[i] = cell.sequence + 1;
  }
  by_id_[mirror.id] = place;
  reply_slots_ += mirror.window;
}

void Sessions::plan(std::uint64_t slot, std::uint32_t index, const Entry& entry,
                    std::vector<Action>& actions) {
  const auto used = slot << 16 | index;
  switch (entry.header.kind) {
    case kEntryOpen: plan_open(used, index, entry, actions); return;
    case kEntryClose: {
      const auto found = by_id_.find(entry.header.session);
      auto made = action(Verdict::kExpired, index, entry);
      if (found != by_id_.end()) {
        made.verdict = Verdict::kClose;
        made.place = found->second;
        forget(found->second);
      }
      actions.push_back(made);
      return;
    }
    case kEntryCommand: plan_command(used, index, entry, actions); return;
    default: {
      auto made = action(Verdict::kBad, index, entry);
      made.text = "query in a logged batch";
      actions.push_back(made);
    }
  }
}

void Sessions::plan_open(std::uint64_t used, std::uint32_t index, const Entry& entry,
                         std::vector<Action>& actions) {
  auto made = action(Verdict::kOpen, index, entry);
  made.session = 0;
  std::uint32_t window = 0;
  if (entry.payload.size() != sizeof window) {
    made.verdict = Verdict::kBad;
    made.text = "malformed open";
    actions.push_back(made);
    return;
  }
  std::memcpy(&window, entry.payload.data(), sizeof window);
  const auto& limits = pool_.limits();
  const auto largest = std::min<std::uint64_t>(kMaxWindow, limits.max_reply_slots);
  window = std::clamp(window, 1U, static_cast<std::uint32_t>(largest));
  while (!recency_.empty() &&
         (free_.empty() || reply_slots_ + window > limits.max_reply_slots)) {
    // Expiry is a close that nobody asked for and nobody is told of.
    auto expiry = action(Verdict::kClose, index, entry);
    expiry.place = recency_.front();
    expiry.text = nullptr;
    forget(expiry.place);
    actions.push_back(expiry);
  }
  invariant(!free_.empty(), "the session table has no place");
  const auto place = free_.back();
  free_.pop_back();
  auto& mirror = mirrors_[place];
  mirror = Mirror{};
  mirror.id = used;
  mirror.used = used;
  mirror.window = window;
  mirror.sequences.assign(window, 0);
  mirror.recency = recency_.insert(recency_.end(), place);
  by_id_[used] = place;
  reply_slots_ += window;
  made.place = place;
  made.window = window;
  made.used = used;
  actions.push_back(made);
}

void Sessions::plan_command(std::uint64_t used, std::uint32_t index, const Entry& entry,
                            std::vector<Action>& actions) {
  auto made = action(Verdict::kExpired, index, entry);
  const auto found = by_id_.find(entry.header.session);
  if (found == by_id_.end()) {
    actions.push_back(made);
    return;
  }
  const auto place = found->second;
  auto& mirror = mirrors_[place];
  const auto sequence = entry.header.sequence;
  use(place, used);
  if (entry.header.lowest > sequence) {
    made.verdict = Verdict::kBad;
    made.text = "lowest above sequence";
  } else {
    mirror.lowest = std::max(mirror.lowest, entry.header.lowest);
    const auto cell = sequence % mirror.window;
    auto& stored = mirror.sequences[cell];
    if (sequence < mirror.lowest) {
      made.verdict = Verdict::kSilent;
    } else if (sequence - mirror.lowest >= mirror.window) {
      made.verdict = Verdict::kBad;
      made.text = "sequence outside the window";
    } else if (stored == sequence + 1) {
      made.verdict = Verdict::kDuplicate;
    } else {
      made.verdict = Verdict::kRun;
      stored = sequence + 1;
      will_write(mirror, cell);
    }
  }
  made.touches = made.verdict != Verdict::kRun;  // a stored reply carries both numbers itself
  made.place = place;
  made.lowest = mirror.lowest;
  made.used = used;
  actions.push_back(made);
}

// Only a hint to the processor. A cell lies in two lines.
void Sessions::will_write(const Mirror& mirror, std::uint64_t cell) const {
  const auto* at = base() + mirror.offset + sizeof(SessionObject) + cell * sizeof(Cell);
  __builtin_prefetch(at, 1);
  __builtin_prefetch(at + sizeof(Cell) - 1, 1);
}

void Sessions::forget(std::uint32_t place) {
  auto& mirror = mirrors_[place];
  by_id_.erase(mirror.id);
  recency_.erase(mirror.recency);
  reply_slots_ -= mirror.window;
  // The offset stays: the close is still to be committed.
  mirror.id = 0;
  free_.push_back(place);
}

void Sessions::use(std::uint32_t place, std::uint64_t used) {
  auto& mirror = mirrors_[place];
  mirror.used = used;
  recency_.splice(recency_.end(), recency_, mirror.recency);
}

void write_cell(Transaction& tx, char* base, Cell& cell, const CellContents& contents) {
  const auto payload = contents.payload;
  tx.add(&cell, sizeof cell);
  const auto old_blob = cell.blob;
  const auto old_length = cell.length;
  cell.sequence = contents.sequence;
  cell.lowest = contents.lowest;
  cell.used = contents.used;
  cell.length = static_cast<std::uint32_t>(payload.size());
  cell.status = contents.status;
  cell.set = 1;
  cell.reserved[0] = cell.reserved[1] = 0;
  std::memset(cell.payload, 0, sizeof cell.payload);
  if (payload.size() <= sizeof cell.payload) {
    cell.blob = 0;
    std::memcpy(cell.payload, payload.data(), payload.size());
  } else if (old_blob != 0 && takes(base + old_blob, payload.size())) {
    auto* blob = base + old_blob;
    tx.add(blob, std::max<std::size_t>(old_length, payload.size()));
    std::memcpy(blob, payload.data(), payload.size());
    tx.written(blob, payload.size());
  } else {
    const auto oid = tx.allocate(payload.size());
    std::memcpy(pmemobj_direct(oid), payload.data(), payload.size());
    cell.blob = oid.off;
  }
  if (old_blob != 0 && old_blob != cell.blob) tx.release(pmemobj_oid(base + old_blob));
  cell.crc = crc_of(cell, payload);
  tx.written(&cell, sizeof cell);
}

std::uint64_t new_session(Transaction& tx, std::uint64_t id, std::uint32_t window,
                          std::uint64_t lowest, std::uint64_t used) {
  const auto size = sizeof(SessionObject) + window * sizeof(Cell);
  const auto oid = tx.allocate(size);
  auto* object = static_cast<SessionObject*>(pmemobj_direct(oid));
  std::memset(static_cast<void*>(object), 0, size);
  object->id = id;
  object->window = window;
  object->lowest = lowest;
  object->used = used;
  object->crc = crc_of(*object);
  return oid.off;
}

void write_session(Transaction& tx, SessionObject& object, std::uint64_t lowest,
                   std::uint64_t used) {
  tx.add(&object, sizeof object);
  object.lowest = std::max(object.lowest, lowest);
  object.used = std::max(object.used, used);
  object.crc = crc_of(object);
}

void free_session(Transaction& tx, char* base, SessionObject& object) {
  for (std::uint32_t i = 0; i < object.window; ++i) {
    const auto blob = object.cells()[i].blob;
    if (blob != 0) tx.release(pmemobj_oid(base + blob));
  }
  tx.release(pmemobj_oid(&object));
}

void Sessions::remember(Journal& journal, const Action& made) const {
  const auto offset = table()[made.place];
  if (offset == 0) return;  // opened in this very slot
  auto* object = object_at(offset);
  const auto& cell = object->cells()[made.sequence % object->window];
  journal.remember(&cell, sizeof cell);
  if (cell.length > sizeof cell.payload) {
    const auto stored = payload_of(cell).payload;
    journal.remember(stored.data(), stored.size());
  }
}

void Sessions::store(Transaction& tx, const Action& made, std::uint8_t status,
                     std::string_view payload) {
  auto* object = object_at(table()[made.place]);
  const auto place = static_cast<std::uint32_t>(made.sequence % object->window);
  write_cell(tx, base(), object->cells()[place],
             {made.sequence, made.lowest, made.used, status, payload});
  changed(made.place, place, payload.size());
}

StoredReply Sessions::payload_of(const Cell& cell) const {
  std::string_view payload(cell.payload, cell.length);
  if (cell.length > sizeof cell.payload) {
    if (cell.blob == 0 || cell.blob > pool_.size() || cell.length > pool_.size() - cell.blob) {
      damaged("a reply leads outside");
    }
    payload = {base() + cell.blob, cell.length};
  }
  if (cell.crc != crc_of(cell, payload)) damaged("a reply does not match its checksum");
  return {cell.status, payload};
}

void Sessions::check(const Cell& cell) const { payload_of(cell); }

StoredReply Sessions::stored(const Action& made) const {
  auto* object = object_at(table()[made.place]);
  const auto& cell = object->cells()[made.sequence % object->window];
  invariant(cell.set && cell.sequence == made.sequence, "a stored reply is missing");
  return payload_of(cell);
}

void Sessions::open(Transaction& tx, const Action& made) {
  const auto offset = new_session(tx, made.used, made.window, 0, made.used);
  auto& entry = table()[made.place];
  tx.add(&entry, sizeof entry);
  entry = offset;
  mirrors_[made.place].offset = offset;
  changed(made.place, kSessionReplaced, 0);
}

void Sessions::close(Transaction& tx, const Action& made) {
  auto& entry = table()[made.place];
  free_session(tx, base(), *object_at(entry));
  tx.add(&entry, sizeof entry);
  entry = 0;
  changed(made.place, kSessionReplaced, 0);
}

void Sessions::touch(Transaction& tx, const Action& made) {
  write_session(tx, *object_at(table()[made.place]), made.lowest, made.used);
  changed(made.place, kSessionTouched, 0);
}

std::vector<std::uint64_t> Sessions::ids() const {
  std::vector<std::uint64_t> list;
  for (const auto& [id, place] : by_id_) list.push_back(id);
  std::sort(list.begin(), list.end());
  return list;
}

Sessions::View Sessions::view(std::uint64_t id) const {
  const auto place = by_id_.at(id);
  const auto& mirror = mirrors_[place];
  return {mirror.lowest, mirror.used, object_at(table()[place])};
}

Sessions::View Sessions::at(std::uint32_t place) const {
  const auto& mirror = mirrors_[place];
  if (mirror.id == 0) return {0, 0, nullptr};
  return {mirror.lowest, mirror.used, object_at(table()[place])};
}

std::uint64_t Sessions::summary() const {
  std::uint64_t sum = 0;
  for (const auto& mirror : mirrors_) {
    if (mirror.id == 0) continue;
    const std::uint64_t parts[] = {mirror.id, mirror.window, mirror.lowest, mirror.used};
    const auto digest = digest64({reinterpret_cast<const char*>(parts), sizeof parts});
    sum += digest;
    for (const auto stored : mirror.sequences) {
      // `stored` is the sequence + 1. Two multiplications with a shift between mix well enough.
      if (stored <= mirror.lowest) continue;
      const auto mixed = (stored + digest) * 0x9e3779b97f4a7c15;
      sum += (mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9;
    }
  }
  return sum;
}

}  // namespace mpaxos
