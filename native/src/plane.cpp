#include "plane.hpp"

#include <algorithm>

#include "client_connection.hpp"
#include "error.hpp"

namespace mpaxos {
namespace {

constexpr std::int64_t kLongestPoll = 100'000'000;  // ns; Python's signals wait that long
constexpr std::int64_t kAsioPeriod = 20'000'000;  // ns; its timers may be that late
constexpr std::int64_t kNap = 200'000;
constexpr std::int64_t kShortestSweep = 5'000'000;
constexpr std::int64_t kLongestSweep = 1'000'000'000;
constexpr std::size_t kLongestName = 255;

void check(bool condition, const std::string& text) {
  if (!condition) throw Error(ErrorKind::kConfig, text);
}

PlaneOptions checked(PlaneOptions options) {
  check(options.cluster.size() == 16, "the cluster id must have 16 bytes");
  check(!options.peers.contains(options.replica), "a replica cannot be its own peer");
  check(options.max_request >= 1 && options.max_request <= (64U << 20),
        "max_request must be 1 byte to 64 MiB");
  check(options.max_batch >= 1 && options.max_batch <= (64U << 20),
        "max_batch must be 1 byte to 64 MiB");
  check(options.handshake_seconds > 0 && options.handshake_seconds <= 86'400,
        "handshake_seconds must be above 0 and at most a day");
  check(options.frame_seconds > 0 && options.frame_seconds <= 86'400,
        "frame_seconds must be above 0 and at most a day");
  return options;
}

// A replica that is restarted again and again may leave connections behind for a while.
std::size_t peer_limit(const PlaneOptions& options) { return 16 + 4 * options.peers.size(); }

}  // namespace

Plane::Plane(PlaneOptions options)
    : io_(1), hub_(io_, checked(std::move(options))), links_(hub_), sweeper_(io_) {
  const auto& chosen = hub_.options();
  const auto listen = [&](const Address& address, Port port, std::size_t limit) {
    listeners_.push_back(std::make_unique<Listener>(hub_, links_, address, port, limit));
  };
  listen(chosen.listen_peer, Port::kPeer, peer_limit(chosen));
  listen(chosen.listen_client, Port::kClient, chosen.max_connections);
  if (chosen.listen_jpaxos) {
    listen(*chosen.listen_jpaxos, Port::kJpaxos, chosen.max_connections);
  }
  for (const auto& listener : listeners_) {
    listener->start();
    hub_.readiness().add_listener(listener->descriptor());
  }
  links_.start();
  sweep_later();
}

Plane::~Plane() { close(); }

std::tuple<int, int, int> Plane::ports() const {
  const auto port = [&](std::size_t i) {
    return i < listeners_.size() ? int{listeners_[i]->bound_port()} : 0;
  };
  return {port(0), port(1), port(2)};
}

void Plane::serve_asio() {
  io_.restart();
  io_.poll();
  asio_due_ = monotonic_now() + asio_period_;
}

std::pair<std::int64_t, std::vector<Event>> Plane::poll(std::int64_t until, std::int64_t room,
                                                        Wanted wanted) {
  const auto last = std::min(until, monotonic_now() + kLongestPoll);
  if (steady_ && steady_->active()) {
    room = std::min(room, steady_->room_for_batches());
    wanted.votes = steady_->awaits_votes();
  }
  hub_.begin_turn(wanted);
  room = hub_.hand_out(room);
  while (!closed_) {
    hub_.begin_pass();
    const bool dialling = links_.dialling();
    if (dialling || hub_.readiness().asio_called() || monotonic_now() >= asio_due_) serve_asio();
    // Greetings and refusals do not wait for the next turn; writing may bring events, too.
    hub_.flush();
    const auto deadline = std::min(last, hub_.held_until());
    const bool sleep = !dialling && !hub_.has_events() && !hub_.gathers() && !woken_ &&
                       !has_results();
    const auto patience = sleep ? std::min(deadline, asio_due_) - monotonic_now() : 0;
    const bool undisturbed = wait(std::max<std::int64_t>(patience, 0));
    if (!take_results(room)) break;
    room = hub_.hand_out(room);
    if (take_ordinary(room) && !woken_ && undisturbed && monotonic_now() < last) continue;
    if (hub_.has_events() || woken_.exchange(false) || !undisturbed) break;
    hub_.flush();
    if (hub_.has_events() || monotonic_now() >= std::min(last, hub_.held_until())) break;
    if (dialling && !hub_.gathers()) {  // who gathers looks again at once
      hub_.readiness().watch();
      io_.restart();
      io_.run_one_until(std::chrono::steady_clock::time_point(std::chrono::nanoseconds(deadline)));
    }
  }
  return {monotonic_now(), hub_.take_events()};
}

// Serves what is ready; waits for it up to `patience` ns. A follower whose own commands are under
// way first waits for its peers alone: the leader's word answers many clients, who then ask again,
// and to wake up for each request that comes meanwhile costs more than the request.
bool Plane::wait(std::int64_t patience) {
  if (patience == 0 || !steady_ || !steady_->active() || !steady_->awaits_leader()) {
    return hub_.serve_ready(patience);
  }
  const auto nap = std::min(patience, kNap);
  if (!hub_.readiness().nap(nap)) return false;
  return hub_.serve_ready(patience - nap);  // at once, if anything came
}

// Takes in what the machine's thread has done. False when that is the protocol's.
bool Plane::take_results(std::int64_t& room) {
  if (!has_results()) return true;
  if (!steady_ || !steady_->active() || !steady_->collect(monotonic_now())) return false;
  after_ordinary(room);
  return true;
}

// Takes a turn without the protocol, if there is a mandate for it and the events allow it. True
// when all of them are taken.
bool Plane::take_ordinary(std::int64_t& room) {
  if (!steady_ || !steady_->active() || !hub_.has_events()) return false;
  auto events = hub_.take_events();
  const auto taken = steady_->run(events, monotonic_now());
  if (taken > 0) {
    ++hub_.counters().ordinary_turns;
    events.erase(events.begin(), events.begin() + static_cast<std::ptrdiff_t>(taken));
    after_ordinary(room);
  }
  const bool all = events.empty();
  if (!all) hub_.give_back(std::move(events));
  return all;
}

void Plane::after_ordinary(std::int64_t& room) {
  room = steady_->room_for_batches();
  hub_.begin_turn({.quorum = true, .votes = steady_->awaits_votes(), .useful_upto = 0});
}

void Plane::serve(HandOver& hand_over) {
  hand_over_ = &hand_over;
  hand_over.bind([this] { hub_.readiness().wake(); });
}

void Plane::attach(Steady& steady, FilePool& pool, Engine* engine) {
  steady_.emplace(hub_, links_, steady, pool, engine, engine == nullptr ? hand_over_ : nullptr);
}

void Plane::send(std::uint16_t peer, std::string_view control, const TimedBatches& values,
                 bool vote) {
  links_.send(peer, control, values, vote);
}

void Plane::answer(std::uint64_t token, std::string_view data) {
  const auto connection = std::dynamic_pointer_cast<ClientConnection>(hub_.find(token));
  if (connection) connection->answer(data);
}

void Plane::wake() {
  woken_ = true;
  hub_.readiness().wake();
}

std::vector<std::pair<std::string, std::uint64_t>> Plane::counters() {
  const auto& now = hub_.counters();
  std::vector<std::pair<std::string, std::uint64_t>> all = {
      {"connections_peer", hub_.open_connections(Port::kPeer)},
      {"connections_client", hub_.open_connections(Port::kClient)},
      {"connections_jpaxos", hub_.open_connections(Port::kJpaxos)},
      {"accepted", now.accepted},
      {"bytes_in", now.bytes_in},
      {"bytes_out", now.bytes_out},
      {"frames_in", now.frames_in},
      {"writes", now.writes},
      {"requests", now.requests},
      {"queries", now.queries},
      {"refused", now.refused},
      {"replies", now.replies},
      {"pauses", now.pauses},
      {"peer_sent", now.peer_sent},
      {"peer_dropped", now.peer_dropped},
      {"notices_dropped", now.notices_dropped},
      {"spared", now.spared},
      {"ordinary_turns", now.ordinary_turns},
  };
  for (std::size_t i = 0; i < now.closed.size(); ++i) {
    all.emplace_back(std::string("closed_") + reason_name(static_cast<Reason>(i)), now.closed[i]);
  }
  return all;
}

void Plane::set_identity(const std::string& cluster_name, const std::string& machine) {
  check(cluster_name.size() <= kLongestName, "the cluster's name is longer than 255 bytes");
  check(machine.size() <= kLongestName, "the machine's name is longer than 255 bytes");
  hub_.cluster_name = cluster_name;
  hub_.machine = machine;
}

void Plane::introduce(Birth birth, std::map<std::uint16_t, Birth> met) {
  hub_.birth = birth;
  hub_.met = std::move(met);
}

void Plane::sweep_later() {
  const auto shortest = std::min(hub_.limits().handshake, hub_.limits().frame);
  const auto period = std::clamp(shortest / 4, kShortestSweep, kLongestSweep);
  asio_period_ = std::min(period, kAsioPeriod);
  sweeper_.expires_after(std::chrono::nanoseconds(period));
  sweeper_.async_wait([this, period](const asio::error_code& error) {
    if (error) return;
    hub_.sweep(period);
    sweep_later();
  });
}

void Plane::close() {
  if (closed_) return;
  closed_ = true;
  if (hand_over_ != nullptr) hand_over_->unbind();
  sweeper_.cancel();
  links_.stop();
  for (const auto& listener : listeners_) listener->stop();
  hub_.flush();  // what was answered before is still sent
  hub_.close_all();
}

}  // namespace mpaxos
