// Applies decided batches to the state machine in a pool. A slot is atomic: the state's changes,
// the replies and the applied position. After a crash a command happened with its reply, or it did
// not happen. What is overwritten in place is kept by the undo journal, everything else by a
// transaction of libpmemobj, which most slots do not need (journal.hpp).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "batch.hpp"
#include "image_watch.hpp"
#include "kv.hpp"
#include "pool.hpp"
#include "replies.hpp"
#include "sessions.hpp"
#include "tree.hpp"

namespace mpaxos {

// A request that a machine outside the engine must run.
struct ToRun {
  std::uint32_t index;
  std::uint64_t session;
  std::uint64_t sequence;
  std::string_view payload;  // inside the batch
};

// Both refer to bytes of their maker's, which stay until finish() returns.
struct Change {
  std::uint32_t container;
  std::string_view key;
  std::optional<std::string_view> value;  // nothing: remove
  const Leaf* found;  // what Tree::find(key) told since begin(): no change came between
};

struct RunReply {
  std::uint8_t status;
  std::string_view payload;
};

// Calls come from one thread at a time. After an exception every further call throws kInvariant:
// the mirror of the session table no longer matches the pool.
class Engine {
 public:
  explicit Engine(Pool& pool);

  ReplySet apply_kv(std::uint64_t slot, std::uint64_t time, const BatchPtr& batch);
  ReplySet query_kv(const Batch& batch);

  std::vector<ToRun> begin(std::uint64_t slot, std::uint64_t time, BatchPtr batch);
  ReplySet finish(const std::vector<RunReply>& replies, const std::vector<Change>& changes);

  std::uint64_t slot() const { return load_shared(root_.applied.slot); }
  std::uint64_t digest() const { return load_shared(root_.applied.digest); }
  std::uint64_t state_used() const { return load_shared(root_.applied.state_used); }

  std::uint32_t container(std::string_view name);
  Tree tree(std::uint32_t container);
  std::uint64_t state_digest();

  // For taking images: only between two slots, when mirror and pool say the same.
  Pool& pool() { return pool_; }
  const Sessions& sessions() const { return sessions_; }
  Watchers& watchers() { return watchers_; }
  void check_between_slots() const;

  // Moves what lies in blocks of memory that are filled to less than `percent` together, between
  // two slots (pack.hpp); returns how many bytes. A slot that finds no room does it by itself.
  std::uint64_t pack(unsigned percent);

 private:
  class Poison;
  void plan(std::uint64_t slot, std::uint64_t time, BatchPtr batch);
  template <typename Attempt>
  ReplySet with_room(Attempt attempt);
  template <typename Run>
  ReplySet commit(Transaction& tx, std::uint64_t used, Run run);
  ReplySet finish_planned(const std::vector<RunReply>& replies,
                          const std::vector<Change>& changes);
  void settle(Transaction& tx, const Action& action, ReplySet& replies);
  void answer(ReplySet& replies, const Action& action, std::uint8_t status,
              std::string_view payload);
  void remember_replies();
  void change_item(Transaction& tx, const Change& change, const Leaf* found, std::uint64_t& used);
  void publish(Transaction& tx, std::uint64_t used);
  void write_position(std::uint64_t used);
  KeyValue& kv();
  void check_alive() const;

  Pool& pool_;
  EngineRoot& root_;
  Watchers watchers_;  // before what points to it
  Sessions sessions_;
  std::optional<KeyValue> kv_;
  std::vector<Action> actions_;
  std::vector<std::string_view> payloads_;  // of a slot or of queries; empty where none runs
  std::vector<Found> found_;  // of each, before any ran
  std::vector<std::uint64_t> answered_;  // what goes into the digest of the replies
  BatchPtr batch_;                       // of the slot that was begun
  std::uint64_t planned_time_ = 0;
  bool begun_ = false;
  bool poisoned_ = false;
};

}  // namespace mpaxos
