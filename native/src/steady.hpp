// Ordinary turns of the protocol: what a leader and its followers do while nothing arrives but
// batches, accepts, votes, reads and heartbeats of one ballot. Nearly all turns are.
//
// The protocol itself is mpaxos.core. It hands over where it stands (a mandate: a Standing), turns
// are taken from there, and before the first turn that is not ordinary it is told where that led (a
// Standing again) and goes on as if it had taken them all. There is no rule here that is not one of
// mpaxos.core's: each function names the one that it does the work of, and the simulated world runs
// both against each other (docs/steady.md).
//
// No input or output, no clock: what a turn asks for is in turn(), in the order of the protocol's
// Output. Whoever calls carries it out: records are durable before any letter leaves.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "batch.hpp"

namespace mpaxos {

inline constexpr int kMaxReplicas = 7;
inline constexpr int kToAll = -1;

struct SteadySettings {
  std::uint32_t replica = 0;
  std::uint32_t replicas = 0;
  std::uint64_t window = 0;
  std::uint64_t local_batches = 0;
  std::uint64_t max_apply_lag = 0;
  std::uint64_t mark_interval = 0;
  std::uint64_t record_overhead = 0;
  std::uint64_t log_size = 0;
  std::int64_t epoch = 0;  // wall clock minus monotonic clock, ns
  std::uint64_t incarnation = 0;
};

// A batch, and what may be known of it.
struct Item {
  std::uint64_t incarnation = 0;
  std::uint64_t number = 0;
  std::uint64_t length = 0;
  std::uint32_t origin = 0;
  BatchPtr batch = nullptr;
  std::shared_ptr<void> foreign = nullptr;  // the simulated world's batch instead
};

struct SlotMark {
  std::uint64_t slot = 0;
  std::uint64_t digest = 0;
};

// A slot that is not decided: its record, and who voted for it in the mandate's ballot.
struct Flight {
  std::uint64_t slot = 0;
  std::uint64_t time = 0;
  std::int64_t sent_at = 0;  // by the leader
  std::uint32_t votes = 0;
  bool held = false;  // the record is here
  Item item;
};

// A batch of this replica's own clients on its way.
struct Own {
  Item item;
  std::int64_t sent_at = 0;  // to the leader, by a follower
};

struct ReadAt {
  Item item;
  std::uint64_t slot = 0;
};

struct Peer {
  std::int64_t heard_at = 0;  // 0: not in this mandate
  std::uint64_t applied = 0;
  std::uint64_t acked = 0;  // newest heartbeat that it answered
  SlotMark reported;
  std::int64_t reported_at = 0;
};

struct Seen {
  std::uint64_t incarnation = 0;
  std::uint64_t number = 0;  // 0: nothing
};

struct BatchId {
  std::uint32_t origin;
  std::uint64_t incarnation;
  std::uint64_t number;
};

// Where the protocol stands: on the way in, and on the way out.
struct Standing {
  std::uint64_t round = 0;
  std::uint32_t leader = 0;
  std::int64_t now = 0;  // of the last turn; 0: there was none
  std::uint64_t decided = 0;
  std::uint64_t applied = 0;
  SlotMark newest;  // own digest at the newest slot where digests are compared
  SlotMark agreed;  // the majority's, as far as the leader said
  std::uint64_t room = 0;
  std::uint64_t decided_time = 0;
  std::vector<Flight> flights;  // ascending
  std::vector<Own> outbox;
  // of a follower
  std::uint64_t said = 0;  // decided, says the leader of this ballot
  std::uint64_t by_all = 0;
  std::int64_t heard_at = 0;
  // of a leader
  std::uint64_t proposed_time = 0;
  std::deque<Item> queue;
  std::array<Seen, kMaxReplicas> seen{};
  std::array<Peer, kMaxReplicas> peers{};
  std::uint64_t beat = 0;
  std::uint64_t asked_beat = 0;  // the heartbeat that confirms `confirming`
  std::int64_t beat_at = 0;  // when the last one was sent
  std::vector<ReadAt> waiting;
  std::vector<ReadAt> confirming;
  std::vector<ReadAt> ready;  // confirmed, their slot is not decided yet
  // only on the way out
  std::vector<SlotMark> marks;       // new own ones, where digests are compared
  std::vector<BatchId> remembered;  // batches that were queued
};

enum class LetterKind : std::uint8_t { kAccept, kAccepted, kForward, kHeartbeat, kAlive };

// A message to be sent; which fields it has depends on its kind (mpaxos.core.messages).
struct Letter {
  LetterKind kind;
  int to;
  std::uint64_t slot = 0;  // of accept, accepted; the number of heartbeat and alive
  std::uint64_t decided = 0;
  std::uint64_t applied = 0;
  std::uint64_t time = 0;
  SlotMark mark;
  Item item;
};

struct Settled {
  std::uint64_t slot;
  std::uint64_t time;
  Item item;
};

// What a turn asks for.
struct SteadyTurn {
  std::vector<Settled> records;
  std::vector<Letter> letters;
  std::vector<Settled> decided;
  std::vector<Item> reads;  // to be answered after `decided` is applied
  void clear();
};

class Steady {
 public:
  explicit Steady(const SteadySettings& settings);

  void begin(Standing standing);
  // Ends the mandate. Standing.now is 0 when no turn was taken.
  Standing end();
  bool active() const { return active_; }
  const Standing& standing() const { return at_; }
  const SteadySettings& settings() const { return settings_; }

  // Events. False: not ordinary, nothing was changed; finish() what came before, then end().
  bool on_batch(Item item);
  bool on_reads(Item item);
  bool on_forward(std::uint32_t sender, Item item);
  bool on_accept(std::uint32_t sender, std::uint64_t slot, std::uint64_t decided,
                 std::uint64_t time, Item item);
  bool on_accepted(std::uint32_t sender, std::uint64_t slot, std::uint64_t applied);
  bool on_heartbeat(std::uint32_t sender, const Letter& beat);
  bool on_alive(std::uint32_t sender, const Letter& alive);
  void on_applied(std::uint64_t slot);
  void on_mark(SlotMark mark);
  void on_room(std::uint64_t room) { at_.room = room; }
  bool of_ballot(std::uint64_t round, std::uint64_t leader) const {
    return round == at_.round && leader == at_.leader;
  }

  // Call before the events of a turn; false: the protocol has to be asked first (no room).
  bool begin_turn(std::int64_t now);
  const SteadyTurn& finish();
  bool leads() const { return at_.leader == settings_.replica; }
  // Batches of own clients that are welcome now.
  std::int64_t room_for_batches() const;
  bool awaits_votes() const { return tail_ > at_.decided || !at_.confirming.empty(); }

 private:
  Flight& flight(std::uint64_t slot) { return ring_[slot & mask_]; }
  bool in_horizon(std::uint64_t slot) const {
    return slot > at_.decided && slot <= at_.decided + 2 * settings_.window;
  }
  bool fits(const Item& item, std::uint64_t reserve) const;
  bool is_new(const Item& item) const;
  void enqueue(Item item);
  void vote(std::uint64_t slot, std::uint32_t voter);
  void hold(std::uint64_t slot, std::uint64_t time, Item item, std::int64_t sent_at);
  void propose();
  void advance();
  void settle(Flight& flight);
  void ask_reads();
  void answer_reads();
  void release_reads();
  void send(Letter letter) { turn_.letters.push_back(std::move(letter)); }

  const SteadySettings settings_;
  const std::uint32_t majority_;
  std::uint64_t mask_;
  std::vector<Flight> ring_;
  Standing at_;
  std::uint64_t tail_ = 0;  // last slot with a record, or decided
  std::int64_t now_ = 0;
  bool active_ = false;
  SteadyTurn turn_;
  std::vector<Letter> forwards_;
  std::vector<Item> asked_;  // reads of this turn
};

}  // namespace mpaxos
