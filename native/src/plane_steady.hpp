// Carries out ordinary turns (steady.hpp) within poll(): takes their events from the plane, writes
// their records, sends their letters, applies what they decide.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "plane_types.hpp"
#include "steady_messages.hpp"

namespace mpaxos {

class Engine;
class FilePool;
class HandOver;
class Hub;
class PeerLinks;

class SteadyRunner {
 public:
  // What is decided is applied here and now by `engine`, or handed over; one of them is null.
  SteadyRunner(Hub& hub, PeerLinks& links, Steady& steady, FilePool& pool, Engine* engine,
               HandOver* hand_over);

  bool active() const { return steady_.active(); }
  std::int64_t room_for_batches() const { return steady_.room_for_batches(); }
  bool awaits_votes() const { return steady_.awaits_votes(); }
  // What the leader says next is about commands of several clients of this follower.
  bool awaits_leader() const;
  // One turn with the first of `events`, as far as they are ordinary; returns how many these are.
  std::size_t run(const std::vector<Event>& events, std::int64_t now);

  // One turn with what the machine's thread has done. False: the protocol has to be asked first.
  bool collect(std::int64_t now);

 private:
  bool take(const Event& event);
  bool take_message(const Event& event);
  void carry_out(const SteadyTurn& turn);
  void write(const std::vector<Settled>& records);
  void send(const Letter& letter);
  void apply(const SteadyTurn& turn);
  void hand_over(const SteadyTurn& turn);

  Hub& hub_;
  PeerLinks& links_;
  Steady& steady_;
  FilePool& pool_;
  Engine* engine_;
  HandOver* hand_over_;
  Incoming incoming_;
  std::string control_;
  TimedBatches values_;
};

// A batch as Steady knows it.
Item item_of(const BatchPtr& batch);

}  // namespace mpaxos
