#include "image_source.hpp"

#include <algorithm>
#include <random>

#include "error.hpp"

namespace mpaxos {
namespace {

constexpr std::size_t kSmallestPart = 64;
constexpr std::size_t kLookAhead = 64;  // items of a sweep

std::uint64_t random_image() {
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

}  // namespace

ImageSource::ImageSource(Engine& engine, const ImageBounds& bounds)
    : engine_(engine),
      root_(engine.pool().engine_root()),
      bounds_(bounds),
      image_(random_image()),
      places_(static_cast<std::uint32_t>(engine.pool().limits().max_sessions)) {
  keep_freed_memory();
  engine.check_between_slots();
  if (!engine.watchers().add(this)) {
    throw Error(ErrorKind::kImage, "there are " + std::to_string(kMaxImages) +
                                       " images being taken of this state already: try again "
                                       "when one of them is complete");
  }
}

ImageSource::~ImageSource() { close(); }

void ImageSource::close() {
  engine_.watchers().remove(this);
  state_ = State::kClosed;
  dirty_.clear();
  ready_.clear();
  staged_.reset();
}

const ContainerRoot& ImageSource::root_of(std::uint32_t container) const {
  return root_.containers[container];
}

std::string_view ImageSource::name_of(std::uint32_t container) const {
  return root_of(container).name;
}

// ------------------------------------------------------------------ what the engine tells

bool ImageSource::passed(std::uint32_t container, std::string_view key) const {
  if (container != container_) return container < container_;
  return inside_ && key <= key_;
}

void ImageSource::item_changes(const ContainerRoot& container, std::string_view key,
                               const Leaf* old, std::optional<std::string_view> value) {
  const auto number = static_cast<std::uint32_t>(&container - root_.containers);
  if (state_ == State::kCut) {
    dirty_.save(number, key, old != nullptr ? std::optional(old->value()) : std::nullopt);
    if (dirty_.memory() > bounds_.max_dirty) state_ = State::kOverrun;
    return;
  }
  if (state_ != State::kSweeping || !passed(number, key)) return;
  if (old != nullptr) items_sum_ -= item_digest(container.name, key, old->crc_when_new());
  if (value) items_sum_ += item_digest(container.name, key, Leaf::of(key, *value).crc);
  dirty_.item(number, key, value ? value->size() : 0);
  if (dirty_.memory() > bounds_.max_dirty) state_ = State::kOverrun;
}

void ImageSource::session_changes(std::uint32_t place, std::uint32_t cell, std::size_t size) {
  if (state_ != State::kSweeping || container_ < kMaxContainers) return;
  if (place > place_ || (place == place_ && session_ == 0)) return;
  if (cell == kSessionTouched || cell == kSessionReplaced) {
    dirty_.session(place, cell == kSessionReplaced);
  } else {
    dirty_.cell(place, cell, size);
  }
  if (dirty_.memory() > bounds_.max_dirty) state_ = State::kOverrun;
}

// ------------------------------------------------------------------ one record each

// Room for a record; names the container if this chunk has not yet. A record longer than any
// chunk (a long key where chunks are tiny) gets a chunk of its own.
bool ImageSource::fits(Draft& draft, std::uint32_t container, std::size_t size) {
  const bool items = container < kMaxContainers;
  const bool named = !items || (draft.named >> container & 1) != 0;
  const auto whole = size + (named ? 0 : 3 + name_of(container).size());
  if (whole > draft.room() && !draft.writer.empty()) {
    draft.full = true;
    return false;
  }
  if (!named) {
    draft.writer.container(static_cast<std::uint8_t>(container), name_of(container));
    draft.named |= std::uint64_t{1} << container;
  }
  return true;
}

// An item too long for one record is copied, and sent in parts.
bool ImageSource::stage(Draft& draft, std::uint32_t container, std::string_view key,
                        std::string_view value) {
  const auto size = ChunkWriter::kPutSize + key.size() + value.size();
  const auto most = draft.limit - sizeof(ChunkHeader) - sizeof(ContainerRoot::name) - 3;
  if (size <= most || value.size() <= kSmallestPart) return false;
  staged_.emplace();
  staged_->bytes = value;
  staged_->container = container;
  staged_->key = key;
  push_staged(draft);
  return true;
}

bool ImageSource::put(Draft& draft, std::uint32_t container, std::string_view key,
                      std::string_view value) {
  if (stage(draft, container, key, value)) return true;
  const auto size = ChunkWriter::kPutSize + key.size() + value.size();
  if (!fits(draft, container, size)) return false;
  draft.writer.put(static_cast<std::uint8_t>(container), key, value);
  return true;
}

bool ImageSource::put(Draft& draft, std::uint32_t container, const Leaf& leaf) {
  if (stage(draft, container, leaf.key(), leaf.value())) return true;
  if (!fits(draft, container, ChunkWriter::kPutSize + leaf.size() - sizeof leaf)) return false;
  draft.writer.put(static_cast<std::uint8_t>(container), leaf);
  return true;
}

bool ImageSource::erase(Draft& draft, std::uint32_t container, std::string_view key) {
  if (!fits(draft, container, ChunkWriter::kPutSize + key.size())) return false;
  draft.writer.erase(static_cast<std::uint8_t>(container), key);
  return true;
}

bool ImageSource::put_session(Draft& draft, std::uint32_t place, const Sessions::View& view) {
  if (!fits(draft, kMaxContainers, ChunkWriter::kSessionSize)) return false;
  if (view.object == nullptr) {
    draft.writer.gone(place);
  } else {
    draft.writer.session(
        {place, view.object->window, view.object->id, view.lowest, view.used});
  }
  return true;
}

// Replies that nobody waits for any more are not sent: the session carries the two numbers
// that matter of them.
bool ImageSource::put_reply(Draft& draft, std::uint32_t place, const Sessions::View& view,
                            std::uint32_t cell_index) {
  const auto& cell = view.object->cells()[cell_index];
  if (!cell.set || cell.sequence < view.lowest) return true;
  const auto stored = engine_.sessions().payload_of(cell);
  const ReplyRecord record{place,       view.object->id, cell.sequence,
                           cell.lowest, cell.used,       stored.status};
  const auto size = ChunkWriter::kReplySize + stored.payload.size();
  if (size > draft.limit - sizeof(ChunkHeader) && stored.payload.size() > kSmallestPart) {
    staged_.emplace();
    staged_->bytes = stored.payload;
    staged_->is_reply = true;
    staged_->reply = record;
    push_staged(draft);
    return true;
  }
  if (!fits(draft, kMaxContainers, size)) return false;
  draft.writer.reply(record, stored.payload);
  return true;
}

void ImageSource::push_staged(Draft& draft) {
  auto& staged = *staged_;
  const std::string_view bytes = staged.bytes;
  while (staged.sent < bytes.size()) {
    if (!fits(draft, kMaxContainers, ChunkWriter::kStageSize + kSmallestPart)) return;
    const auto room = draft.room() - std::min(draft.room(), ChunkWriter::kStageSize);
    const auto part = bytes.substr(staged.sent, std::max(room, kSmallestPart));
    draft.writer.stage(staged.sent, part);
    staged.sent += part.size();
  }
  if (staged.is_reply) {
    if (!fits(draft, kMaxContainers, ChunkWriter::kReplySize + 8)) return;
    draft.writer.reply_staged(staged.reply, bytes.size());
  } else {
    if (!fits(draft, staged.container, ChunkWriter::kPutSize + 8 + staged.key.size())) return;
    draft.writer.put_staged(static_cast<std::uint8_t>(staged.container), staged.key,
                            bytes.size());
  }
  staged_.reset();
}

// ------------------------------------------------------------------ one chunk

void ImageSource::drain(Draft& draft, std::uint64_t cost) {
  const auto enough = [&] { return draft.full || staged_ || draft.cost() >= cost; };
  std::uint32_t place = 0;
  while (auto* session = dirty_.first_session(place)) {
    if (enough() || !drain_session(draft, place, *session)) return;
    ++progress_.again;
    dirty_.drop_first_session();
  }
  std::uint32_t container = 0;
  while (const auto* item = dirty_.first_item(container)) {
    if (enough() || !drain_item(draft, container, item->first, item->second)) return;
    draft.extra += kDirtyCost;
    ++progress_.again;
    dirty_.drop_first_item(container);
  }
}

bool ImageSource::drain_item(Draft& draft, std::uint32_t container, std::string_view key,
                             const DirtySet::Item& item) {
  if (item.saved) {
    return item.value ? put(draft, container, key, *item.value) : erase(draft, container, key);
  }
  const auto* leaf = engine_.tree(container).find(key);
  return leaf != nullptr ? put(draft, container, *leaf) : erase(draft, container, key);
}

// First the session, so that it is there when its replies arrive; what does not fit stays.
bool ImageSource::drain_session(Draft& draft, std::uint32_t place, DirtySet::Session& dirty) {
  const auto view = engine_.sessions().at(place);
  if (dirty.itself) {
    if (!put_session(draft, place, view)) return false;
    draft.extra += kDirtyCost;
    dirty.itself = false;
  }
  for (std::size_t word = 0; word < dirty.cells.size() && view.object != nullptr; ++word) {
    auto& bits = dirty.cells[word];
    for (; bits != 0; bits &= bits - 1) {
      const auto cell = static_cast<std::uint32_t>(word * 64 + __builtin_ctzll(bits));
      // Of another session that had a larger window and this place.
      if (cell >= view.object->window) continue;
      if (draft.full || staged_ || !put_reply(draft, place, view, cell)) return false;
      draft.extra += kReplyCost;
    }
  }
  return true;
}

void ImageSource::sweep_items(Draft& draft) {
  while (container_ < kMaxContainers) {
    if (root_of(container_).name[0] != '\0' && root_of(container_).count > 0) {
      const auto tree = engine_.tree(container_);
      Tree::Cursor cursor(tree, inside_ ? key_ + '\0' : std::string(), kLookAhead);
      for (;;) {
        if (draft.full || staged_ || draft.cost() >= draft.limit) return;
        const auto* leaf = cursor.next();
        if (leaf == nullptr) break;
        if (!put(draft, container_, *leaf)) return;
        draft.extra += kSweepCost;
        items_sum_ += item_digest(name_of(container_), leaf->key(), leaf->crc_when_new());
        key_ = leaf->key();
        inside_ = true;
        ++progress_.items;
      }
    }
    ++container_;
    inside_ = false;
  }
}

void ImageSource::sweep_sessions(Draft& draft) {
  for (; place_ < places_; ++place_, session_ = 0, cell_ = 0) {
    const auto view = engine_.sessions().at(place_);
    // A session that took the place of one half sent is in the dirty set, all of it.
    if (view.object == nullptr || (session_ != 0 && session_ != view.object->id)) continue;
    if (draft.full || staged_ || draft.cost() >= draft.limit) return;
    if (session_ == 0) {
      if (!put_session(draft, place_, view)) return;
      session_ = view.object->id;
      draft.extra += kSweepCost;
    }
    for (; cell_ < view.object->window; ++cell_) {
      if (draft.full || staged_ || draft.cost() >= draft.limit) return;
      if (!put_reply(draft, place_, view, cell_)) return;
      draft.extra += 8;
    }
  }
}

// While the cursor has a way to go, what has changed behind it waits: it may change again before
// it is worth sending. Only when it takes much memory it is sent meanwhile, and even then a quarter
// is the cursor's: so it arrives, whatever the load.
void ImageSource::fill(Draft& draft) {
  if (number_ == 0) {
    const auto& limits = engine_.pool().limits();
    draft.writer.head({limits.state_limit, limits.max_sessions, limits.max_reply_slots});
  }
  if (staged_) push_staged(draft);
  if (!swept() && dirty_.memory() > bounds_.max_dirty / 2) {
    if (dirty_.pass_over()) dirty_.begin_pass();
    drain(draft, draft.limit / 4 * 3);
  }
  if (!staged_) sweep_items(draft);
  if (!staged_ && container_ == kMaxContainers) sweep_sessions(draft);
  if (swept()) drain(draft, draft.limit);
}

std::string ImageSource::finish(Draft& draft, bool final) {
  auto chunk = draft.writer.seal(image_, number_++, cut() ? end_.slot : engine_.slot(), final);
  ++progress_.chunks;
  progress_.bytes += chunk.size();
  return chunk;
}

// Fixes the position that the image is of. From now on the items that are left are sent as they
// are now.
void ImageSource::cut_now() {
  const auto& applied = root_.applied;
  end_ = {applied.slot,     applied.digest,      applied.time, applied.state_used,
          applied.sessions, applied.reply_slots, items_sum_,   engine_.sessions().summary()};
  for (std::uint32_t i = 0; i < kMaxContainers && !name_of(i).empty(); ++i) {
    counts_.push_back({name_of(i), root_of(i).count});
  }
  state_ = State::kCut;
}

// Ends the image when nothing is left and the end fits.
bool ImageSource::try_end(Draft& draft) {
  if (!swept() || staged_ || !dirty_.empty()) return false;
  if (state_ == State::kSweeping) cut_now();
  std::size_t size = 1 + sizeof(EndRecord) + 1;
  for (const auto& count : counts_) size += 9 + count.name.size();
  if (!fits(draft, kMaxContainers, size)) return false;
  draft.writer.end(end_, counts_);
  engine_.watchers().remove(this);
  state_ = State::kDone;
  return true;
}

// A pass over what has changed leaves what changed meanwhile. Passes go on as long as each leaves
// less than half: so the image is of a late slot, and they end whatever the load.
void ImageSource::next_pass(std::size_t max_bytes) {
  const auto left = dirty_.cost();
  if (left <= max_bytes || left > pass_cost_ / 2) cut_now();
  pass_cost_ = left;
  dirty_.begin_pass();
}

std::optional<std::string> ImageSource::next(std::size_t max_bytes) {
  if (!ready_.empty()) {
    auto chunk = std::move(ready_.front());
    ready_.pop_front();
    return chunk;
  }
  if (state_ == State::kDone) return std::nullopt;
  if (state_ == State::kOverrun) {
    close();
    throw Error(ErrorKind::kImage,
                "the image was given up: what changed while it was taken outgrew its bound of " +
                    std::to_string(bounds_.max_dirty) +
                    " bytes, because chunks were asked for too seldom. Take a new one");
  }
  if (state_ == State::kTakenBack) {
    close();
    throw Error(ErrorKind::kImage,
                "the image was given up: a slot was applied anew, after the pool had been packed. "
                "Take a new one");
  }
  if (state_ == State::kClosed) throw Error(ErrorKind::kImage, "the image was closed");
  engine_.check_between_slots();
  if (max_bytes < kMinChunk || max_bytes > kMaxChunk) {
    throw Error(ErrorKind::kImage, "a chunk has from " + std::to_string(kMinChunk) + " to " +
                                       std::to_string(kMaxChunk) + " bytes");
  }
  if (state_ == State::kSweeping && swept() && !staged_ && dirty_.pass_over()) {
    next_pass(max_bytes);
  }
  try {
    do {
      Draft draft(max_bytes);
      fill(draft);
      const bool ended = try_end(draft);
      ready_.push_back(finish(draft, ended));
      // At the cut all sessions at once: they change with every slot, and before it is told.
    } while (state_ == State::kCut && (!dirty_.sessions_over() || (staged_ && staged_->is_reply)));
  } catch (...) {
    close();  // the state is damaged, or there is no memory: a chunk with a part of its records
    throw;    // missing must not be followed by others
  }
  auto chunk = std::move(ready_.front());
  ready_.pop_front();
  return chunk;
}

ImageProgress ImageSource::progress() const {
  auto progress = progress_;
  for (const auto& container : root_.containers) progress.total += container.count;
  progress.dirty = dirty_.count();
  progress.memory = dirty_.memory();
  return progress;
}

}  // namespace mpaxos
