#include "engine.hpp"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "checksum.hpp"
#include "error.hpp"
#include "pack.hpp"

namespace mpaxos {

namespace {

[[noreturn]] void damaged(const char* what) {
  throw Error(ErrorKind::kStorageCorrupt,
              std::string("the state in the pool is damaged: ") + what +
                  ". The replica does not start from it; restore it from a good copy");
}

// A container that lost its name would be made anew, empty.
void check_container(const ContainerRoot& container) {
  const std::string_view bytes(reinterpret_cast<const char*>(&container), sizeof container);
  const bool unused = bytes.find_first_not_of('\0') == std::string_view::npos;
  if (!unused && container.check != container_check(container)) {
    damaged("a container does not match its checksum");
  }
}

}  // namespace

// Set while a slot is being applied; stays set when an exception leaves it.
class Engine::Poison {
 public:
  explicit Poison(Engine& engine) : engine_(engine) {
    engine.check_alive();
    engine.poisoned_ = true;
  }
  void lift() { engine_.poisoned_ = false; }

 private:
  Engine& engine_;
};

Engine::Engine(Pool& pool)
    : pool_(pool), root_(pool.engine_root()), sessions_(pool, &watchers_) {
  if (root_.installing.bits != 0) {
    throw Error(ErrorKind::kStorageIncomplete,
                "the pool holds an image of the state that has not arrived completely: it is not a "
                "replica. Go on with the transfer, or remove the file and begin it anew");
  }
  const auto& applied = root_.applied;
  if (applied.sessions != sessions_.count() || applied.reply_slots != sessions_.reply_slots()) {
    damaged("the session table does not have the sessions that the applied position counts");
  }
  for (const auto& container : root_.containers) check_container(container);
}

void Engine::check_alive() const {
  invariant(!poisoned_, "the engine stopped when an earlier slot failed");
}

void Engine::check_between_slots() const {
  check_alive();
  invariant(!begun_, "a slot was begun and not finished");
}

void Engine::plan(std::uint64_t slot, std::uint64_t time, BatchPtr batch) {
  invariant(slot == root_.applied.slot + 1, "a slot is applied out of order");
  batch_ = std::move(batch);
  planned_time_ = std::max(time, root_.applied.time);
  actions_.clear();
  std::uint32_t index = 0;
  Entry entry;
  for (EntryCursor cursor(*batch_); cursor.next(entry); ++index) {
    invariant(index < 1U << 16, "a batch of more than 65536 requests");
    sessions_.plan(slot, index, entry, actions_);
  }
}

void Engine::answer(ReplySet& replies, const Action& action, std::uint8_t status,
                    std::string_view payload) {
  static const auto of_nothing = digest64({});  // most replies to puts
  replies.add(action.session, action.sequence, status, payload);
  answered_.insert(answered_.end(), {action.session, action.sequence, std::uint64_t{status},
                                     payload.empty() ? of_nothing : digest64(payload)});
}

// Everything but running a command.
void Engine::settle(Transaction& tx, const Action& action, ReplySet& replies) {
  switch (action.verdict) {
    case Verdict::kRun: invariant(false, "a command is not settled but run"); break;
    case Verdict::kDuplicate: {
      const auto stored = sessions_.stored(action);
      answer(replies, action, stored.status, stored.payload);
      break;
    }
    case Verdict::kSilent: break;
    case Verdict::kOpen:
      sessions_.open(tx, action);
      answer(replies, action, kStatusOpened,
             {reinterpret_cast<const char*>(&action.used), sizeof action.used});
      break;
    case Verdict::kClose:
      sessions_.close(tx, action);
      if (action.text != nullptr) answer(replies, action, kStatusOk, {});
      break;
    case Verdict::kExpired: answer(replies, action, kStatusExpired, {}); break;
    case Verdict::kBad: answer(replies, action, kStatusBad, action.text); break;
  }
  if (action.touches) sessions_.touch(tx, action);
}

// The replies that this slot overwrites, and the position: what every slot changes.
void Engine::remember_replies() {
  auto& journal = pool_.journal();
  journal.begin(root_.applied.slot + 1);
  journal.remember(&root_.applied, sizeof root_.applied);
  for (const auto& action : actions_) {
    if (action.verdict == Verdict::kRun) sessions_.remember(journal, action);
  }
}

// Applies what was planned by `attempt`; again, after packing, when the pool has no room for it:
// all items may have moved then. What is free may lie scattered, and between items of 80 bytes it
// is of no use for items of 1,000.
template <typename Attempt>
ReplySet Engine::with_room(Attempt attempt) {
  bool moved = false;
  for (const unsigned percent : {75, 95}) {
    try {
      return attempt(moved);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kStorageFull) throw;
    }
    pool_.journal().take_back();
    watchers_.taken_back();
    Packer(pool_, percent).run();
    ++pool_.packings;
    moved = true;
  }
  return attempt(moved);
}

template <typename Run>
ReplySet Engine::commit(Transaction& tx, std::uint64_t used, Run run) {
  answered_.clear();
  ReplySet replies;
  replies.expect(actions_.size());
  for (std::size_t i = 0; i < actions_.size(); ++i) {
    const auto& action = actions_[i];
    if (action.verdict != Verdict::kRun) {
      settle(tx, action, replies);
      continue;
    }
    const auto [status, payload] = run(i, used);
    sessions_.store(tx, action, status, payload);
    answer(replies, action, status, payload);
  }
  publish(tx, used);
  return replies;
}

// The position makes all that was written part of the state; so it is written when that is durable.
void Engine::publish(Transaction& tx, std::uint64_t used) {
  auto& applied = root_.applied;
  pool_.journal().flush_written();
  pmemobj_drain(pool_.handle());
  if (tx.begun()) {
    auto& journal_slot = pool_.journal().slot_word();
    tx.snapshot(&applied, sizeof applied);
    tx.snapshot(&journal_slot, sizeof journal_slot);
    write_position(used);
    journal_slot = 0;
    tx.commit();
  } else {
    write_position(used);
    pmemobj_persist(pool_.handle(), &applied, sizeof applied);
    pool_.journal().clear();
  }
}

void Engine::write_position(std::uint64_t used) {
  auto& applied = root_.applied;
  const auto slot = applied.slot + 1;
  const std::uint64_t parts[] = {
      applied.digest, slot, planned_time_, batch_->digest(),
      digest64({reinterpret_cast<const char*>(answered_.data()), answered_.size() * 8})};
  store_shared(applied.digest, digest64({reinterpret_cast<const char*>(parts), sizeof parts}));
  store_shared(applied.time, planned_time_);
  store_shared(applied.state_used, used);
  store_shared(applied.sessions, sessions_.count());
  store_shared(applied.reply_slots, sessions_.reply_slots());
  // Read by the thread that writes the log: truncation never passes it.
  store_shared(applied.slot, slot);
  applied.crc = crc32c({reinterpret_cast<const char*>(&applied), offsetof(AppliedRoot, crc)});
}

ReplySet Engine::apply_kv(std::uint64_t slot, std::uint64_t time, const BatchPtr& batch) {
  auto& machine = kv();
  Poison poison(*this);
  plan(slot, time, batch);
  payloads_.clear();
  for (const auto& action : actions_) {
    payloads_.push_back(action.verdict == Verdict::kRun ? action.payload : std::string_view());
  }
  auto replies = with_room([&](bool) {
    remember_replies();
    auto& journal = pool_.journal();
    machine.prepare(journal, payloads_, found_);
    journal.seal();
    Transaction tx(pool_.handle(), &journal);
    return commit(tx, root_.applied.state_used, [&](std::size_t i, std::uint64_t& used) {
      const auto status = machine.run(tx, actions_[i].payload, used, found_[i]);
      return std::pair(status, machine.reply());
    });
  });
  poison.lift();
  return replies;
}

ReplySet Engine::query_kv(const Batch& batch) {
  check_alive();
  auto& machine = kv();
  payloads_.clear();
  Entry entry;
  for (EntryCursor cursor(batch); cursor.next(entry);) {
    invariant(entry.header.kind == kEntryQuery, "a command among queries");
    payloads_.push_back(entry.payload);
  }
  machine.look_up(payloads_, found_);
  ReplySet replies;
  std::size_t next = 0;
  for (EntryCursor cursor(batch); cursor.next(entry); ++next) {
    const auto status = machine.query(entry.payload, found_[next]);
    replies.add(entry.header.session, entry.header.sequence, status, machine.reply());
  }
  return replies;
}

std::vector<ToRun> Engine::begin(std::uint64_t slot, std::uint64_t time, BatchPtr batch) {
  invariant(!begun_, "a slot was begun and not finished");
  Poison poison(*this);
  plan(slot, time, std::move(batch));
  std::vector<ToRun> list;
  for (const auto& action : actions_) {
    if (action.verdict == Verdict::kRun) {
      list.push_back({action.index, action.session, action.sequence, action.payload});
    }
  }
  begun_ = true;
  poison.lift();
  return list;
}

void Engine::change_item(Transaction& tx, const Change& change, const Leaf* found,
                         std::uint64_t& used) {
  auto map = tree(change.container);
  if (found != nullptr) used -= kItemOverhead + found->key_length + found->value_length;
  if (change.value) {
    used += kItemOverhead + change.key.size() + change.value->size();
    map.put(tx, found, change.key, *change.value);
  } else if (found != nullptr) {
    map.erase(tx, found);
  }
}

ReplySet Engine::finish(const std::vector<RunReply>& replies, const std::vector<Change>& changes) {
  invariant(begun_, "finish without begin");
  begun_ = false;
  Poison poison(*this);
  const auto commands = std::count_if(actions_.begin(), actions_.end(), [](const auto& action) {
    return action.verdict == Verdict::kRun;
  });
  invariant(static_cast<std::size_t>(commands) == replies.size(), "a command has no reply");
  auto answers = with_room([&](bool moved) {
    if (!moved) return finish_planned(replies, changes);
    auto found = changes;
    for (auto& change : found) change.found = tree(change.container).find(change.key);
    return finish_planned(replies, found);
  });
  poison.lift();
  return answers;
}

ReplySet Engine::finish_planned(const std::vector<RunReply>& replies,
                                const std::vector<Change>& changes) {
  remember_replies();
  auto& journal = pool_.journal();
  for (const auto& change : changes) {
    if (change.found != nullptr && change.value) {
      journal.remember(change.found, change.found->size());
    }
  }
  journal.seal();
  Transaction tx(pool_.handle(), &journal);
  auto used = root_.applied.state_used;
  bool moved = false;
  for (const auto& change : changes) {
    const auto* found = moved ? tree(change.container).find(change.key) : change.found;
    moved = moved || !change.value || found == nullptr || !Tree::fits(*found, change.value->size());
    change_item(tx, change, found, used);
  }
  std::size_t next = 0;
  return commit(tx, used, [&](std::size_t, std::uint64_t&) {
    const auto& reply = replies[next++];
    return std::pair(reply.status, std::string_view(reply.payload));
  });
}

std::uint64_t Engine::pack(unsigned percent) {
  check_between_slots();
  Poison poison(*this);
  const auto moved = Packer(pool_, percent).run();
  ++pool_.packings;
  poison.lift();
  return moved;
}

KeyValue& Engine::kv() {
  if (!kv_) kv_.emplace(tree(container("data")), pool_.limits().state_limit);
  return *kv_;
}

std::uint32_t Engine::container(std::string_view name) {
  invariant(!name.empty() && name.size() < sizeof(ContainerRoot::name),
            "a container's name has 1 to 63 bytes");
  std::uint32_t at = 0;
  for (; at < kMaxContainers && root_.containers[at].name[0] != '\0'; ++at) {
    if (name == root_.containers[at].name) return at;
  }
  invariant(at < kMaxContainers, "a machine has at most 64 containers");
  auto& fresh = root_.containers[at];
  Transaction tx(pool_.handle());
  tx.add(&fresh, sizeof fresh);
  std::memset(&fresh, 0, sizeof fresh);
  std::memcpy(fresh.name, name.data(), name.size());
  fresh.check = container_check(fresh);
  tx.commit();
  return at;
}

Tree Engine::tree(std::uint32_t container) {
  invariant(container < kMaxContainers && root_.containers[container].name[0] != '\0',
            "no such container");
  return Tree(pool_, root_.containers[container], &watchers_);
}

namespace {

// XXH3 over a stream of numbers and length-prefixed texts.
class Digest {
 public:
  Digest() : state_(XXH3_createState(), &XXH3_freeState) {
    invariant(state_ != nullptr, "no memory for a digest");
    XXH3_64bits_reset(state_.get());
  }
  void add(std::uint64_t number) { XXH3_64bits_update(state_.get(), &number, sizeof number); }
  void add(std::string_view text) {
    add(text.size());
    XXH3_64bits_update(state_.get(), text.data(), text.size());
  }
  std::uint64_t value() const { return XXH3_64bits_digest(state_.get()); }

 private:
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state_;
};

}  // namespace

std::uint64_t Engine::state_digest() {
  check_alive();
  Digest digest;
  std::vector<ContainerRoot*> containers;
  for (auto& root : root_.containers) {
    if (root.count > 0) containers.push_back(&root);
  }
  std::sort(containers.begin(), containers.end(),
            [](auto* a, auto* b) { return std::string_view(a->name) < b->name; });
  for (auto* root : containers) {
    const Tree map(pool_, *root);
    digest.add(std::string_view(root->name));
    digest.add(root->count);
    std::uint64_t count = 0;
    Tree::Cursor cursor(map, {});
    while (const auto* leaf = cursor.next()) {
      digest.add(leaf->key());
      digest.add(leaf->value());
      ++count;
    }
    if (count != root->count) damaged("a container does not have as many items as it counts");
  }
  for (const auto id : sessions_.ids()) {
    const auto view = sessions_.view(id);
    digest.add(id);
    digest.add(view.object->window);
    digest.add(view.lowest);
    digest.add(view.used);
    for (std::uint32_t i = 0; i < view.object->window; ++i) {
      const auto& cell = view.object->cells()[i];
      if (!cell.set || cell.sequence < view.lowest) continue;
      const auto reply = sessions_.payload_of(cell);
      digest.add(cell.sequence);
      digest.add(reply.status);
      digest.add(reply.payload);
    }
  }
  return digest.value();
}

}  // namespace mpaxos
