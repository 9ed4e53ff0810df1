// What all connections of a plane share: the events of the turn, the requests that wait to become
// batches, who speaks for which session. Touched by one thread only.
#pragma once

#include <asio/io_context.hpp>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "plane_connection.hpp"
#include "plane_types.hpp"
#include "replies.hpp"

namespace mpaxos {

// Requests on their way into batches, numbered from 1.
class RequestQueue {
 public:
  RequestQueue(std::uint16_t origin, std::uint64_t incarnation, std::size_t max_batch);
  // `entry` is one validated entry in wire form.
  void append(std::string_view entry);
  void append(const EntryHeader& header, std::string_view payload);
  // The next batch; null when nothing waits.
  BatchPtr next();
  // Whether to wait before next(): while the sockets have `more`, those who were just answered ask
  // again, and a larger batch costs everybody less. A moment at most; not when a batch is full.
  bool gathers(bool more);
  std::size_t bytes() const;

 private:
  void make_room(std::size_t size);
  void seal();
  const std::uint16_t origin_;
  const std::uint64_t incarnation_;
  const std::size_t max_batch_;
  BatchBuilder open_;
  std::deque<BatchPtr> sealed_;
  std::size_t sealed_bytes_ = 0;
  std::uint64_t number_ = 0;
  std::int64_t gather_until_ = 0;  // 0: does not gather
};

struct TimeLimits {
  std::int64_t handshake;  // ns
  std::int64_t frame;      // ns
};

class Hub {
 public:
  Hub(asio::io_context& io, PlaneOptions options);

  const PlaneOptions& options() const { return options_; }
  const TimeLimits& limits() const { return limits_; }
  asio::io_context& io() { return io_; }
  Readiness& readiness() { return readiness_; }
  // Reads and writes what is ready, up to the bound of a turn; waits up to `patience` ns for it.
  // False when a signal ended the wait.
  bool serve_ready(std::int64_t patience);
  Counters& counters() { return counters_; }
  std::size_t max_request_frame() const;
  std::string cluster_name;
  std::string machine;
  Birth birth;                          // of this replica's data
  std::map<std::uint16_t, Birth> met;  // the other replicas

  // Turns
  // What is not waited for is held for a moment, so that it comes with what is worth a turn.
  void begin_turn(const Wanted& wanted) {
    wanted_ = wanted;
    useless_seen_ = false;
  }
  // Makes batches of what waits, at most `room` of commands, and reads on if there is space again.
  // Returns how much room is left.
  std::int64_t hand_out(std::int64_t room);
  // Requests were not handed out for the sake of others that may come at once: do not sleep.
  bool gathers() const { return gathers_; }
  // Something is worth a turn.
  bool has_events() const { return events_.size() > held_; }
  // When what is held is worth one, too; far away when nothing is.
  std::int64_t held_until() const { return held_ == 0 ? kNever : held_until_; }
  // All, also what was held.
  std::vector<Event> take_events();
  // What was taken and is for somebody else; nothing came in between.
  void give_back(std::vector<Event> events) { events_ = std::move(events); }
  void push(Event event) { events_.push_back(std::move(event)); }
  void push_of_peer(Event event, bool vote);
  // Whether an accept of `slot` may be dropped unread. The first one of a turn may not: it tells
  // that its leader is there, and how far it is.
  bool spares_accept(std::uint64_t slot);
  bool may_spare() const { return wanted_.useful_upto != 0; }
  void notice(Port port, const std::string& address, const std::string& reason);
  void flush();
  bool quorum() const { return wanted_.quorum; }

  // Connections
  std::uint64_t next_id() { return ++last_id_; }
  void add(const std::shared_ptr<Connection>& connection);
  void remove(const Connection& connection);
  void count_closed(Connection& connection, Reason reason, const std::string& text);
  std::size_t open_connections(Port port) const;
  void dirty(std::shared_ptr<Connection> connection) { dirty_.push_back(std::move(connection)); }
  void park(std::shared_ptr<Connection> connection);
  bool full() const { return wanted_.quorum && commands_.bytes() > options_.max_pending; }
  // Called every `period` ns, or as soon after as the plane is polled.
  void sweep(std::int64_t period);
  void close_all();
  std::shared_ptr<Connection> find(std::uint64_t id) const;
  std::vector<asio::const_buffer>& scratch() { return scratch_; }
  // A turn takes in a bounded number of bytes, then the protocol has its say.
  void begin_pass() { pass_bytes_ = 0; }
  void count_read(std::size_t size);
  void count_write(std::size_t size);
  void count_frame() { ++counters_.frames_in; }

  // Sessions
  using SessionPtr = std::shared_ptr<SessionConnection>;
  // From now on `connection` gets the session's replies; an older one is told so.
  void attach(std::uint64_t session, SessionPtr connection);
  void detach(std::uint64_t session, const SessionConnection* connection);
  // Asks the log for a new session; the answer goes to connection->opened(). Returns the token.
  std::uint64_t open_session(SessionPtr connection, std::uint32_t window);
  void forget_token(std::uint64_t token) { openings_.erase(token); }
  void command(std::string_view entry);
  void command(const EntryHeader& header, std::string_view payload);
  void query(std::string_view entry);
  void deliver(const ReplySet& replies);

 private:
  asio::io_context& io_;
  Readiness readiness_;
  const PlaneOptions options_;
  const TimeLimits limits_;
  Counters counters_;
  Wanted wanted_;
  bool useless_seen_ = false;
  std::uint64_t last_id_ = 0;
  std::int64_t last_sweep_ = monotonic_now();
  std::size_t pass_bytes_ = 0;
  bool pass_served_ = false;  // something was ready
  bool gathers_ = false;
  std::size_t notices_ = 0;
  static constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
  std::size_t held_ = 0;  // of events_
  std::int64_t held_until_ = 0;
  std::vector<Event> events_;
  std::vector<asio::const_buffer> scratch_;
  std::vector<std::shared_ptr<Connection>> dirty_;
  std::vector<std::shared_ptr<Connection>> parked_;
  std::unordered_map<std::uint64_t, std::shared_ptr<Connection>> connections_;
  std::array<std::size_t, 3> open_by_port_{};
  std::unordered_map<std::uint64_t, SessionPtr> sessions_;
  std::unordered_map<std::uint64_t, SessionPtr> openings_;  // by token
  RequestQueue commands_;
  RequestQueue queries_;
};

}  // namespace mpaxos
