// One thread of the load generator: an epoll loop over its share of the connections.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "connection.hpp"
#include "histogram.hpp"

namespace mpaxos::load {

// When what happens; set by the main thread once all connections are ready.
struct Plan {
  std::atomic<Nanos> start{0};  // 0: not yet
  Nanos measure = 0;            // valid once start is
  Nanos end = 0;
  std::atomic<bool> stop{false};  // give up: another worker failed, or SIGINT
  std::atomic<bool> finish{false};  // the measured time is over early: SIGUSR1
};

struct Stall {
  Nanos at;      // since the beginning of the measured time
  Nanos length;  // without any answer while some were waited for
};

// What a worker has measured. Read by others after its thread has ended, but for the atomics.
struct Tally {
  Histogram reads, writes;
  std::map<std::string, std::uint64_t> errors;
  std::vector<Stall> stalls;
  std::vector<std::uint32_t> series;  // answers per interval of the measured time
  std::uint64_t refused = 0;
  std::uint64_t reconnections = 0;
  std::uint64_t unanswered = 0;
  std::uint64_t received = 0;
  std::uint64_t written = 0;
  Nanos lag = 0;        // longest time by which an open loop was late in sending
  Nanos processor = 0;  // of this thread, while measured
  Nanos last_answer = 0;
  std::string failure;
  std::atomic<std::uint64_t> answers{0};  // so far, warm-up included
  std::atomic<std::uint32_t> ready{0};    // connections
  std::atomic<bool> done{false};
};

class Worker {
 public:
  // Has every `options.threads`-th connection from the `number`-th on.
  Worker(const Options& options, const std::vector<Endpoint>& endpoints, const Content& content,
         const Zipf* zipf, Plan& plan, std::uint32_t number);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // To be called on a thread of its own; never throws.
  void run() noexcept;
  const Tally& tally() const { return tally_; }

 private:
  class Feedback;

  void loop();
  void open_some();
  void turn(Nanos time, int timeout_us);
  int timeout(Nanos time) const;
  void begin(Nanos time);
  void on_event(Connection& connection, std::uint32_t events);
  void read(Connection& connection);
  void ask(Connection& connection, Nanos time);
  void put(Connection& connection, Nanos start);
  void issue_due(Nanos time);
  void retry(Nanos time);
  void flush(Connection& connection);
  void flush_dirty();
  void mark_dirty(Connection& connection);
  void lost(Connection& connection, const std::string& why);
  void watch(Connection& connection, bool writing);
  void note_request(Nanos time);
  void note_answer(Nanos start, bool read);
  void sample_processor(Nanos time);
  void close_sessions();

  const Options& options_;
  const std::vector<Endpoint>& endpoints_;
  const Content& content_;
  Plan& plan_;
  Chooser chooser_;
  Tally tally_;
  std::deque<Connection> connections_;  // they do not move
  std::deque<Connection*> to_open_;
  std::deque<std::pair<Nanos, Connection*>> retries_;  // ascending: the pause is always the same
  std::vector<Connection*> dirty_;
  std::string buffer_;
  int epoll_ = -1;
  std::size_t opening_ = 0;
  std::size_t open_sessions_ = 0;
  Nanos time_ = 0;  // of this event
  Nanos heard_ = 0;            // of any server
  std::uint64_t waiting_ = 0;  // requests without an answer, unsent ones of an open loop too
  bool begun_ = false;
  bool issuing_ = false;
  bool closing_ = false;
  std::uint64_t left_ = 0;  // of `options.count`
  std::uint64_t due_ = 0;   // requests of an open loop that were due so far
  double interval_ = 0;     // between them, ns
  Nanos processor_began_ = -1;
  bool processor_ended_ = false;
};

}  // namespace mpaxos::load
