#include "worker.hpp"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>

namespace mpaxos::load {
namespace {

// Connections that are opened at the same time: below the backlog of any listener.
constexpr std::size_t kOpeningAtOnce = 64;

// A replica that cannot take a request now is asked again after this.
constexpr Nanos kRetryPause = 5'000'000;
constexpr Nanos kReconnectPause = 20'000'000;

constexpr Nanos kStall = 10'000'000;
constexpr std::size_t kMaxStalls = 20'000;
constexpr std::size_t kMaxSeries = 10'000'000;  // intervals: 40 MB
constexpr std::size_t kMaxErrorTexts = 20;

constexpr std::size_t kReadBuffer = 256 << 10;
// Longer than any election: servers that are silent for so long are gone.
constexpr Nanos kSilence = 30'000'000'000;
constexpr Nanos kClosingTime = 2'000'000'000;

Nanos thread_processor() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return Nanos{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

// Hands what a protocol found in the bytes of one connection to the worker.
class Worker::Feedback final : public Sink {
 public:
  Feedback(Worker& worker, Connection& connection) : worker_(worker), connection_(connection) {}

  void ready() override {
    if (connection_.state == Connection::State::kReady) return;
    connection_.state = Connection::State::kReady;
    --worker_.opening_;
    worker_.tally_.ready.fetch_add(1, std::memory_order_relaxed);
  }
  void answered(Nanos start, bool read) override {
    --connection_.in_flight;
    --worker_.waiting_;
    worker_.note_answer(start, read);
  }
  void failed(Nanos, std::string_view text) override {
    --connection_.in_flight;
    --worker_.waiting_;
    worker_.heard_ = worker_.time_;
    auto& errors = worker_.tally_.errors;
    const std::string key(text.substr(0, 200));
    // A text may hold numbers: the table of them stays short all the same.
    ++errors[errors.contains(key) || errors.size() < kMaxErrorTexts ? key : "others"];
    worker_.tally_.answers.fetch_add(1, std::memory_order_relaxed);
  }
  void refused() override {
    ++worker_.tally_.refused;
    if (connection_.retrying) return;
    connection_.retrying = true;
    worker_.retries_.emplace_back(worker_.time_ + kRetryPause, &connection_);
  }
  void said(std::string_view text) override { connection_.last_words = text; }
  void closed() override {
    connection_.state = Connection::State::kClosed;
    --worker_.open_sessions_;
  }

 private:
  Worker& worker_;
  Connection& connection_;
};

Worker::Worker(const Options& options, const std::vector<Endpoint>& endpoints,
               const Content& content, const Zipf* zipf, Plan& plan, std::uint32_t number)
    : options_(options),
      endpoints_(endpoints),
      content_(content),
      plan_(plan),
      chooser_(options, zipf, options.seed + number, options.count / options.threads * number),
      buffer_(kReadBuffer, '\0') {
  for (auto i = number; i < options.connections; i += options.threads) {
    auto& connection = connections_.emplace_back();
    connection.endpoint = i % endpoints.size();
    connection.protocol = find_protocol(options.protocol)(options, content);
  }
  for (auto& connection : connections_) to_open_.push_back(&connection);
  left_ = options.count / options.threads + (number < options.count % options.threads ? 1 : 0);
  interval_ = options.rate > 0 ? 1e9 * options.threads / options.rate : 0;
  epoll_ = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_ < 0) throw Failure(std::string("epoll: ") + std::strerror(errno));
}

Worker::~Worker() {
  if (epoll_ >= 0) ::close(epoll_);
}

void Worker::run() noexcept {
  try {
    loop();
  } catch (const std::exception& error) {
    tally_.failure = error.what();
    plan_.stop = true;
  }
  for (const auto& connection : connections_) {
    tally_.received += connection.received;
    tally_.written += connection.written;
  }
  tally_.done = true;
}

void Worker::loop() {
  Nanos give_up = 0;
  while (!plan_.stop) {
    open_some();
    time_ = now();
    turn(time_, timeout(time_));
    time_ = now();
    const auto start = plan_.start.load(std::memory_order_acquire);
    if (!begun_ && start != 0 && time_ >= start) begin(time_);
    if (!begun_) continue;
    retry(time_);
    if (issuing_ && options_.rate > 0) issue_due(std::min(time_, plan_.end));
    flush_dirty();
    sample_processor(time_);
    const bool over = plan_.finish || (options_.count > 0 ? left_ == 0 : time_ >= plan_.end);
    if (issuing_ && over) {
      issuing_ = false;
      give_up = time_ + options_.grace;
    }
    if (issuing_ && time_ - heard_ > kSilence && waiting_ > 0) {
      throw Failure("no server has answered for 30 s");
    }
    if (!issuing_ && (waiting_ == 0 || time_ >= give_up)) break;
  }
  sample_processor(plan_.end + 1);
  // What has no answer by now has waited for at least so long.
  for (auto& connection : connections_) {
    auto waiting = connection.protocol->unanswered();
    waiting.insert(waiting.end(), connection.backlog.begin(), connection.backlog.end());
    tally_.unanswered += waiting.size();
    for (const auto start : waiting) tally_.writes.add(time_ - start);
  }
  if (!plan_.stop) close_sessions();
}

void Worker::open_some() {
  while (opening_ < kOpeningAtOnce && !to_open_.empty()) {
    auto& connection = *to_open_.front();
    to_open_.pop_front();
    ++opening_;
    if (!connection.connect(endpoints_[connection.endpoint])) {
      lost(connection, std::strerror(errno));
      continue;
    }
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT;
    event.data.ptr = &connection;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, connection.fd, &event);
  }
}

int Worker::timeout(Nanos time) const {
  Nanos wake = time + 20'000'000;  // to look at the plan
  const auto start = plan_.start.load(std::memory_order_acquire);
  if (!begun_ && start != 0) wake = std::min(wake, start);
  if (begun_) {
    if (!retries_.empty()) wake = std::min(wake, retries_.front().first);
    if (issuing_) wake = std::min(wake, std::max(plan_.end, time));
    if (issuing_ && time < plan_.measure) wake = std::min(wake, plan_.measure);
    if (issuing_ && options_.rate > 0) {
      const auto due = plan_.start + static_cast<Nanos>(interval_ * static_cast<double>(due_));
      wake = std::min(wake, due);
    }
  }
  return static_cast<int>(std::max<Nanos>(wake - time, 0) / 1000);
}

void Worker::turn(Nanos, int timeout_us) {
  std::array<epoll_event, 512> events;
  const timespec limit{timeout_us / 1'000'000, timeout_us % 1'000'000 * 1000L};
  const int count = epoll_pwait2(epoll_, events.data(), static_cast<int>(events.size()), &limit,
                                 nullptr);
  if (count < 0 && errno != EINTR) throw Failure(std::string("epoll: ") + std::strerror(errno));
  for (int i = 0; i < count; ++i) {
    on_event(*static_cast<Connection*>(events[static_cast<std::size_t>(i)].data.ptr),
             events[static_cast<std::size_t>(i)].events);
  }
}

void Worker::begin(Nanos time) {
  begun_ = issuing_ = true;
  heard_ = time;
  if (options_.rate > 0) return;
  for (auto& connection : connections_) {
    ask(connection, time);
    flush(connection);
  }
}

void Worker::on_event(Connection& connection, std::uint32_t events) {
  if (connection.fd < 0) return;
  if (connection.state == Connection::State::kConnecting) {
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(connection.fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) return lost(connection, std::strerror(error));
    connection.state = Connection::State::kGreeting;
    connection.protocol->greet(connection.out);
    return flush(connection);
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read(connection);
  if ((events & EPOLLOUT) != 0 && connection.fd >= 0 && connection.watching) flush(connection);
}

void Worker::read(Connection& connection) {
  std::string_view bytes;
  if (!connection.receive(buffer_, bytes)) return lost(connection, "the server hung up");
  if (bytes.empty()) return;
  time_ = now();
  Feedback feedback(*this, connection);
  const auto taken = connection.protocol->take(bytes, feedback, connection.out);
  connection.keep(bytes, taken);
  ask(connection, time_);
  flush(connection);
}

// Fills the connection with as many requests as it may have in flight.
void Worker::ask(Connection& connection, Nanos time) {
  if (connection.state != Connection::State::kReady || closing_) return;
  if (options_.rate > 0) {
    while (!connection.backlog.empty() && connection.in_flight < options_.depth &&
           connection.protocol->room(false) && connection.protocol->room(true)) {
      put(connection, connection.backlog.front());
      connection.backlog.pop_front();
    }
  } else if (issuing_) {
    while (connection.in_flight < options_.depth && connection.protocol->room(false) &&
           connection.protocol->room(true)) {
      if (options_.count > 0 && left_ == 0) break;
      if (options_.count > 0) --left_;
      note_request(time);
      put(connection, time);
    }
  }
}

void Worker::put(Connection& connection, Nanos start) {
  connection.protocol->request(connection.out, chooser_.next(), start);
  ++connection.in_flight;
}

// An open loop asks when it is time, whether answers come or not: a request's time counts from
// the moment it was due, not from when there was room for it ("coordinated omission").
void Worker::issue_due(Nanos time) {
  while (true) {
    const auto due = plan_.start + static_cast<Nanos>(interval_ * static_cast<double>(due_));
    if (due > time || due >= plan_.end) return;
    auto& connection = connections_[due_++ % connections_.size()];
    note_request(time);
    if (due >= plan_.measure) tally_.lag = std::max(tally_.lag, time - due);
    const bool room = connection.state == Connection::State::kReady && connection.backlog.empty() &&
                      connection.in_flight < options_.depth && connection.protocol->room(false) &&
                      connection.protocol->room(true);
    if (!room) {
      connection.backlog.push_back(due);
      continue;
    }
    put(connection, due);
    mark_dirty(connection);
  }
}

void Worker::retry(Nanos time) {
  while (!retries_.empty() && retries_.front().first <= time) {
    auto& connection = *retries_.front().second;
    retries_.pop_front();
    if (connection.state == Connection::State::kIdle) {
      to_open_.push_back(&connection);
    } else if (connection.retrying && connection.state == Connection::State::kReady) {
      connection.protocol->resend(connection.out, false);
      mark_dirty(connection);
    }
    connection.retrying = false;
  }
}

void Worker::mark_dirty(Connection& connection) {
  if (connection.dirty) return;
  connection.dirty = true;
  dirty_.push_back(&connection);
}

void Worker::flush_dirty() {
  for (auto* connection : dirty_) {
    connection->dirty = false;
    flush(*connection);
  }
  dirty_.clear();
}

void Worker::flush(Connection& connection) {
  if (connection.fd < 0 || connection.state == Connection::State::kConnecting) return;
  if (connection.state == Connection::State::kReady) connection.protocol->finish(connection.out);
  if (!connection.send()) return lost(connection, std::strerror(errno));
  if (connection.blocked() != connection.watching) watch(connection, connection.blocked());
}

void Worker::watch(Connection& connection, bool writing) {
  epoll_event event{};
  event.events = writing ? EPOLLIN | EPOLLOUT : EPOLLIN;
  event.data.ptr = &connection;
  epoll_ctl(epoll_, EPOLL_CTL_MOD, connection.fd, &event);
  connection.watching = writing;
}

void Worker::lost(Connection& connection, const std::string& why) {
  if (closing_) {
    if (connection.state != Connection::State::kClosed) --open_sessions_;
    connection.state = Connection::State::kClosed;
    return connection.hang_up();
  }
  const auto& endpoint = endpoints_[connection.endpoint];
  // Before the run begins nobody may be there at all; later a replica may crash and come back.
  if (!connection.protocol->resumable() || !begun_) {
    const auto& said = connection.last_words;
    throw Failure(endpoint.text + ": " + why + (said.empty() ? "" : ", saying: " + said));
  }
  const bool was_ready = connection.state == Connection::State::kReady;
  if (!was_ready) --opening_;
  ++tally_.reconnections;
  connection.hang_up();
  connection.endpoint = (connection.endpoint + 1) % endpoints_.size();
  if (!connection.retrying) retries_.emplace_back(time_ + kReconnectPause, &connection);
  connection.retrying = true;
  // The pauses differ: keep the queue in order.
  std::stable_sort(retries_.begin(), retries_.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
}

// Silence begins when something is waited for, not while nothing is.
void Worker::note_request(Nanos time) {
  if (waiting_++ == 0) heard_ = time;
}

void Worker::note_answer(Nanos start, bool read) {
  tally_.answers.fetch_add(1, std::memory_order_relaxed);
  const bool measured = time_ >= plan_.measure && (time_ < plan_.end || options_.rate > 0);
  if (measured && time_ - heard_ > kStall && tally_.stalls.size() < kMaxStalls) {
    tally_.stalls.push_back({heard_ - plan_.measure, time_ - heard_});
  }
  heard_ = time_;
  if (options_.series > 0 && measured) {
    const auto at = static_cast<std::size_t>((time_ - plan_.measure) / options_.series);
    if (at >= tally_.series.size() && at < kMaxSeries) tally_.series.resize(at + 1);
    if (at < kMaxSeries) ++tally_.series[at];
  }
  // A closed loop counts what is answered in the measured time; an open loop what was due in it.
  if (options_.rate > 0 ? start < plan_.measure : !measured) return;
  (read ? tally_.reads : tally_.writes).add(time_ - start);
  tally_.last_answer = time_;
}

void Worker::sample_processor(Nanos time) {
  if (processor_began_ < 0 && time >= plan_.measure) processor_began_ = thread_processor();
  if (!processor_ended_ && processor_began_ >= 0 && time >= plan_.end) {
    processor_ended_ = true;
    tally_.processor = thread_processor() - processor_began_;
  }
}

// The cluster forgets sessions of its own accord only to make room: leave none behind.
void Worker::close_sessions() {
  closing_ = true;
  for (auto& connection : connections_) {
    if (connection.state != Connection::State::kReady) continue;
    ++open_sessions_;
    if (!connection.protocol->close(connection.out)) {
      connection.state = Connection::State::kClosed;
      --open_sessions_;
      continue;
    }
    flush(connection);
  }
  const auto give_up = now() + kClosingTime;
  while (open_sessions_ > 0 && now() < give_up && !plan_.stop) turn(now(), 10'000);
}

}  // namespace mpaxos::load
