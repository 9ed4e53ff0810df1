#include "plane_steady.hpp"

#include "engine.hpp"
#include "error.hpp"
#include "file_pool.hpp"
#include "hand_over.hpp"
#include "peer_connection.hpp"
#include "plane_hub.hpp"

namespace mpaxos {

Item item_of(const BatchPtr& batch) {
  const auto& header = batch->header();
  return {.incarnation = header.incarnation,
          .number = header.number,
          .length = batch->bytes().size(),
          .origin = header.origin,
          .batch = batch,
          .foreign = nullptr};
}

SteadyRunner::SteadyRunner(Hub& hub, PeerLinks& links, Steady& steady, FilePool& pool,
                           Engine* engine, HandOver* hand_over)
    : hub_(hub),
      links_(links),
      steady_(steady),
      pool_(pool),
      engine_(engine),
      hand_over_(hand_over) {
  invariant((engine == nullptr) != (hand_over == nullptr), "one who applies what is decided");
}

bool SteadyRunner::awaits_leader() const {
  constexpr std::uint32_t kSeveral = 4;
  if (steady_.leads()) return false;
  std::uint32_t commands = 0;
  for (const auto& own : steady_.standing().outbox) commands += own.item.batch->header().count;
  return commands >= kSeveral;
}

std::size_t SteadyRunner::run(const std::vector<Event>& events, std::int64_t now) {
  if (!steady_.begin_turn(now)) return 0;
  std::size_t taken = 0;
  while (taken < events.size() && take(events[taken])) ++taken;
  if (taken > 0) carry_out(steady_.finish());
  return taken;
}

bool SteadyRunner::collect(std::int64_t now) {
  if (!steady_.begin_turn(now)) return false;
  for (const auto& result : hand_over_->take_results()) {
    hub_.deliver(result.replies);
    if (result.slot == 0) continue;
    steady_.on_applied(result.slot);
    steady_.on_mark({result.slot, result.digest});
  }
  carry_out(steady_.finish());  // what waited for the machine may go on
  hub_.flush();
  return true;
}

bool SteadyRunner::take(const Event& event) {
  switch (event.kind) {
    case kEventBatch: return steady_.on_batch(item_of(event.batch));
    case kEventReads: return steady_.on_reads(item_of(event.batch));
    case kEventPeerMessage: return take_message(event);
    default: return false;
  }
}

bool SteadyRunner::take_message(const Event& event) {
  auto& in = incoming_;
  if (!decode_letter(event.bytes, event.values.size(), in)) return false;
  if (in.letter.kind == LetterKind::kForward) {
    return event.values.size() == 1 &&
           steady_.on_forward(event.peer, item_of(event.values[0].second));
  }
  if (!steady_.of_ballot(in.round, in.leader)) return false;
  switch (in.letter.kind) {
    case LetterKind::kAccept: {
      const auto& [time, batch] = event.values[0];
      return in.vote && steady_.on_accept(event.peer, in.letter.slot, in.letter.decided, time,
                                          item_of(batch));
    }
    case LetterKind::kAccepted:
      return in.slots.size() == 1 &&
             steady_.on_accepted(event.peer, in.slots[0], in.letter.applied);
    case LetterKind::kHeartbeat: return steady_.on_heartbeat(event.peer, in.letter);
    case LetterKind::kAlive: return steady_.on_alive(event.peer, in.letter);
    case LetterKind::kForward: break;
  }
  return false;
}

// The order is that of the loop (mpaxos.runtime.loop): what a letter tells of is durable.
void SteadyRunner::carry_out(const SteadyTurn& turn) {
  if (!turn.records.empty()) write(turn.records);
  if (!turn.letters.empty()) {
    for (const auto& letter : turn.letters) send(letter);
    hub_.flush();
  }
  if (turn.decided.empty() && turn.reads.empty()) return;
  if (engine_ == nullptr) {
    hand_over(turn);
    return;
  }
  apply(turn);
  hub_.flush();
}

void SteadyRunner::hand_over(const SteadyTurn& turn) {
  using Kind = HandOver::Kind;
  for (const auto& [slot, time, item] : turn.decided) {
    hand_over_->put({.kind = Kind::kSlot, .slot = slot, .time = time, .batch = item.batch});
  }
  for (const auto& item : turn.reads) {
    hand_over_->put({.kind = Kind::kReads, .batch = item.batch});
  }
}

void SteadyRunner::write(const std::vector<Settled>& records) {
  const auto& at = steady_.standing();
  std::vector<RecordIn> list;
  list.reserve(records.size());
  for (const auto& [slot, time, item] : records) {
    list.push_back({slot, at.round, at.leader, time, item.batch});
  }
  pool_.write(std::nullopt, list, 0);
  steady_.on_room(pool_.log().room());
}

void SteadyRunner::send(const Letter& letter) {
  const auto& at = steady_.standing();
  control_.clear();
  encode_letter(control_, letter, at.round, at.leader);
  values_.clear();
  if (letter.item.batch) values_.emplace_back(letter.time, letter.item.batch);
  for (std::uint32_t peer = 0; peer < steady_.settings().replicas; ++peer) {
    if (peer == steady_.settings().replica) continue;
    if (letter.to != kToAll && letter.to != static_cast<int>(peer)) continue;
    links_.send(static_cast<std::uint16_t>(peer), control_, values_, is_vote(letter.kind));
  }
}

void SteadyRunner::apply(const SteadyTurn& turn) {
  for (const auto& [slot, time, item] : turn.decided) {
    hub_.deliver(engine_->apply_kv(slot, time, item.batch));
    steady_.on_applied(slot);
    if (slot % steady_.settings().mark_interval == 0) steady_.on_mark({slot, engine_->digest()});
  }
  for (const auto& item : turn.reads) hub_.deliver(engine_->query_kv(*item.batch));
}

}  // namespace mpaxos
