#include "steady.hpp"

#include <algorithm>
#include <bit>

#include "error.hpp"

namespace mpaxos {
namespace {

constexpr std::size_t kRemembered = 4096;  // as Leadership.HINTS

std::size_t ring_size(std::uint64_t window) { return std::bit_ceil(2 * window + 1); }

}  // namespace

void SteadyTurn::clear() {
  records.clear();
  letters.clear();
  decided.clear();
  reads.clear();
}

Steady::Steady(const SteadySettings& settings)
    : settings_(settings),
      majority_(settings.replicas / 2 + 1),
      mask_(ring_size(settings.window) - 1),
      ring_(ring_size(settings.window)) {
  invariant(settings.replica < settings.replicas && settings.replicas <= kMaxReplicas,
            "a replica of a cluster of at most seven");
  invariant(settings.mark_interval > 0 && settings.window > 0, "settings above zero");
}

void Steady::begin(Standing standing) {
  invariant(!active_, "a mandate while another one is in force");
  at_ = std::move(standing);
  for (auto& place : ring_) place = {};
  tail_ = at_.decided;
  for (auto& found : at_.flights) {
    invariant(in_horizon(found.slot), "a mandate with a slot outside of the horizon");
    if (found.held) {
      invariant(found.slot == tail_ + 1, "a mandate with a hole");
      tail_ = found.slot;
    }
    flight(found.slot) = std::move(found);
  }
  at_.flights.clear();
  at_.now = 0;
  at_.marks.clear();
  at_.remembered.clear();
  turn_.clear();
  forwards_.clear();
  asked_.clear();
  active_ = true;
}

Standing Steady::end() {
  invariant(active_, "a mandate ends that is not in force");
  active_ = false;
  for (auto slot = at_.decided + 1; slot <= at_.decided + 2 * settings_.window; ++slot) {
    if (flight(slot).slot == slot) at_.flights.push_back(std::move(flight(slot)));
  }
  turn_.clear();
  return std::move(at_);
}

// -- events ---------------------------------------------------------------------------------------

bool Steady::begin_turn(std::int64_t now) {
  // Acceptor.under_pressure: how to make room is the protocol's to say.
  if (at_.room < settings_.log_size / 4) return false;
  now_ = now;
  at_.now = now;
  turn_.clear();
  return true;
}

// Outbox.add, and forward or Leadership.enqueue.
bool Steady::on_batch(Item item) {
  at_.outbox.push_back({item, now_});
  if (leads()) {
    enqueue(std::move(item));
  } else {
    forwards_.push_back({.kind = LetterKind::kForward,
                         .to = static_cast<int>(at_.leader),
                         .mark = {},
                         .item = std::move(item)});
  }
  return true;
}

// ReadQueue.add; followers ask the leader, which is not ordinary.
bool Steady::on_reads(Item item) {
  if (!leads()) return false;
  asked_.push_back(std::move(item));
  return true;
}

// Replica._on_forward. What may have been queued before is for the protocol to look up.
bool Steady::on_forward(std::uint32_t, Item item) {
  if (!leads() || !is_new(item)) return false;
  enqueue(std::move(item));
  return true;
}

bool Steady::is_new(const Item& item) const {
  if (item.origin >= settings_.replicas) return false;
  const auto& seen = at_.seen[item.origin];
  return seen.incarnation == item.incarnation && seen.number < item.number;
}

void Steady::enqueue(Item item) {
  at_.seen[item.origin] = {item.incarnation, item.number};
  if (at_.remembered.size() >= 2 * kRemembered) {
    at_.remembered.erase(at_.remembered.begin(), at_.remembered.begin() + kRemembered);
  }
  at_.remembered.push_back({item.origin, item.incarnation, item.number});
  at_.queue.push_back(std::move(item));
}

// Replica._on_accept, Acceptor.accept. Only the next slot: gaps are not ordinary, nor is it to hear
// that something is decided which is not here.
bool Steady::on_accept(std::uint32_t sender, std::uint64_t slot, std::uint64_t decided,
                       std::uint64_t time, Item item) {
  if (leads() || sender != at_.leader) return false;
  if (slot != tail_ + 1 || !in_horizon(slot) || !fits(item, 0)) return false;
  if (decided > slot) return false;
  at_.heard_at = now_;
  at_.said = std::max(at_.said, decided);
  vote(slot, sender);
  hold(slot, time, std::move(item), 0);
  vote(slot, settings_.replica);
  send({.kind = LetterKind::kAccepted,
        .to = settings_.replicas <= 3 ? static_cast<int>(sender) : kToAll,
        .slot = slot,
        .applied = at_.applied,
        .mark = {},
        .item = {}});
  return true;
}

// Replica._on_accepted.
bool Steady::on_accepted(std::uint32_t sender, std::uint64_t slot, std::uint64_t applied) {
  if (sender >= settings_.replicas) return false;
  if (in_horizon(slot)) vote(slot, sender);
  if (leads()) {
    auto& peer = at_.peers[sender];
    peer.heard_at = now_;
    peer.applied = std::max(peer.applied, applied);
  }
  return true;
}

// Replica._on_heartbeat.
bool Steady::on_heartbeat(std::uint32_t sender, const Letter& beat) {
  if (leads() || sender != at_.leader || beat.decided > tail_) return false;
  at_.heard_at = now_;
  at_.said = std::max(at_.said, beat.decided);
  at_.by_all = std::max(at_.by_all, beat.applied);
  if (beat.mark.slot >= at_.agreed.slot) at_.agreed = beat.mark;
  send({.kind = LetterKind::kAlive,
        .to = static_cast<int>(sender),
        .slot = beat.slot,
        .decided = at_.decided,
        .applied = at_.applied,
        .mark = at_.newest,
        .item = {}});
  return true;
}

// Replica._on_heartbeat_reply.
bool Steady::on_alive(std::uint32_t sender, const Letter& alive) {
  if (!leads() || sender >= settings_.replicas) return false;
  auto& peer = at_.peers[sender];
  peer.heard_at = now_;
  peer.applied = std::max(peer.applied, alive.applied);
  peer.acked = std::max(peer.acked, alive.slot);
  peer.reported = alive.mark;
  peer.reported_at = now_;
  return true;
}

void Steady::on_applied(std::uint64_t slot) {
  invariant(slot <= at_.decided && slot >= at_.applied, "applied a slot that is not decided");
  at_.applied = slot;
}

void Steady::on_mark(SlotMark mark) {
  if (mark.slot % settings_.mark_interval != 0) return;
  at_.newest = mark;
  at_.marks.push_back(mark);
}

// -- the rest of a turn ---------------------------------------------------------------------------

// Replica.step after its events: Learner.advance, Replica._run_leadership or Outbox.forward.
const SteadyTurn& Steady::finish() {
  advance();
  if (leads()) {
    propose();
    ask_reads();
    answer_reads();
    advance();  // a cluster of one decides by its own vote
    release_reads();
  }
  for (auto& letter : forwards_) send(std::move(letter));
  forwards_.clear();
  return turn_;
}

std::int64_t Steady::room_for_batches() const {
  const auto limit = static_cast<std::int64_t>(settings_.local_batches);
  return std::max<std::int64_t>(0, limit - static_cast<std::int64_t>(at_.outbox.size()));
}

// Acceptor.has_room
bool Steady::fits(const Item& item, std::uint64_t reserve) const {
  return at_.room >= reserve + item.length + settings_.record_overhead;
}

// Learner.vote
void Steady::vote(std::uint64_t slot, std::uint32_t voter) {
  auto& place = flight(slot);
  if (place.slot != slot) {
    place = {};
    place.slot = slot;
  }
  place.votes |= 1U << voter;
}

// Acceptor._append
void Steady::hold(std::uint64_t slot, std::uint64_t time, Item item, std::int64_t sent_at) {
  at_.room -= item.length + settings_.record_overhead;
  turn_.records.push_back({slot, time, item});
  auto& place = flight(slot);
  if (place.slot != slot) place.votes = 0;
  place.slot = slot;
  place.time = time;
  place.sent_at = sent_at;
  place.held = true;
  place.item = std::move(item);
  tail_ = slot;
}

// Leadership.propose. The last eighth of the log is kept for taking over.
void Steady::propose() {
  while (!at_.queue.empty() && tail_ + 1 <= at_.decided + settings_.window &&
         at_.decided - at_.applied < settings_.max_apply_lag &&
         fits(at_.queue.front(), settings_.log_size / 8)) {
    const auto slot = tail_ + 1;
    const auto wall = static_cast<std::uint64_t>(now_ + settings_.epoch);
    at_.proposed_time = std::max(wall, at_.proposed_time);
    auto item = std::move(at_.queue.front());
    at_.queue.pop_front();
    send({.kind = LetterKind::kAccept,
          .to = kToAll,
          .slot = slot,
          .decided = at_.decided,
          .time = at_.proposed_time,
          .mark = {},
          .item = item});
    hold(slot, at_.proposed_time, std::move(item), now_);
    vote(slot, settings_.replica);
  }
}

// Learner.advance: decided by a majority of votes in this ballot, or because its leader says so
// of what was accepted in its ballot. All records here are of this ballot.
void Steady::advance() {
  while (at_.decided - at_.applied < settings_.max_apply_lag) {
    auto& next = flight(at_.decided + 1);
    if (next.slot != at_.decided + 1 || !next.held) return;
    const auto votes = static_cast<std::uint32_t>(std::popcount(next.votes));
    if (votes < majority_ && next.slot > at_.said) return;
    settle(next);
  }
}

// Learner._emit, Outbox.decided
void Steady::settle(Flight& next) {
  at_.decided = next.slot;
  at_.decided_time = std::max(at_.decided_time, next.time);
  const auto& item = next.item;
  if (item.origin == settings_.replica && item.incarnation == settings_.incarnation) {
    const auto own = std::find_if(at_.outbox.begin(), at_.outbox.end(), [&](const Own& one) {
      return one.item.number == item.number;
    });
    if (own != at_.outbox.end()) at_.outbox.erase(own);
  }
  turn_.decided.push_back({next.slot, next.time, std::move(next.item)});
  next = {};
}

// -- reads of a leader (mpaxos.core.reads) --------------------------------------------------------

// ReadConfirmation.ask: the slot is the last one *proposed*. Leadership.beat when a round is due.
void Steady::ask_reads() {
  for (auto& item : asked_) at_.waiting.push_back({std::move(item), tail_});
  asked_.clear();
  answer_reads();
  if (at_.waiting.empty() || !at_.confirming.empty()) return;
  ++at_.beat;
  at_.asked_beat = at_.beat;
  at_.beat_at = now_;
  at_.confirming.swap(at_.waiting);
  auto by_all = at_.applied;
  for (std::uint32_t peer = 0; peer < settings_.replicas; ++peer) {
    if (peer != settings_.replica) by_all = std::min(by_all, at_.peers[peer].applied);
  }
  send({.kind = LetterKind::kHeartbeat,
        .to = kToAll,
        .slot = at_.beat,
        .decided = at_.decided,
        .applied = by_all,
        .mark = at_.agreed,
        .item = {}});
}

// ReadConfirmation.confirmed
void Steady::answer_reads() {
  if (at_.confirming.empty()) return;
  std::uint32_t confirmed = 1;
  for (std::uint32_t peer = 0; peer < settings_.replicas; ++peer) {
    if (peer != settings_.replica && at_.peers[peer].acked >= at_.asked_beat) ++confirmed;
  }
  if (confirmed < majority_) return;
  for (auto& read : at_.confirming) at_.ready.push_back(std::move(read));
  at_.confirming.clear();
}

// They are answered from a state that has all up to their slot; slots of `ready` ascend.
void Steady::release_reads() {
  std::size_t count = 0;
  while (count < at_.ready.size() && at_.ready[count].slot <= at_.decided) {
    turn_.reads.push_back(std::move(at_.ready[count++].item));
  }
  at_.ready.erase(at_.ready.begin(), at_.ready.begin() + static_cast<std::ptrdiff_t>(count));
}

}  // namespace mpaxos
