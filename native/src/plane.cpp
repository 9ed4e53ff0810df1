#include "plane.hpp"

#include <sys/random.h>

#include <algorithm>

#include "client_connection.hpp"
#include "error.hpp"
#include "jpaxos_connection.hpp"

namespace mpaxos {
namespace {

constexpr std::size_t kNoticesPerPoll = 100;
constexpr auto kLongestPoll = std::chrono::milliseconds(100);

}  // namespace

// -- starting and stopping -------------------------------------------------------------------

Plane::Plane(PlaneOptions options)
    : options_(std::move(options)),
      guard_(asio::make_work_guard(context_)),
      sweep_timer_(context_) {
  peer_acceptor_.emplace(listen(options_.listen_peer, "replicas"));
  client_acceptor_.emplace(listen(options_.listen_client, "clients"));
  accept<PeerConnection>(*peer_acceptor_);
  accept<ClientConnection>(*client_acceptor_);
  if (options_.listen_jpaxos) {
    jpaxos_acceptor_.emplace(listen(*options_.listen_jpaxos, "JPaxos clients"));
    accept<JpaxosConnection>(*jpaxos_acceptor_);
  }
  for (const auto& [peer, address] : options_.peers) {
    if (peer >= options_.replica) continue;
    auto dialer = std::make_shared<Dialer>(*this, peer, address.first, address.second);
    dialers_.emplace(peer, dialer);
    dialer->start();
  }
  sweep();
}

Plane::~Plane() { close(); }

void Plane::close() {
  if (closed_) return;
  closed_ = true;
  asio::error_code ignored;
  for (auto* acceptor : {&peer_acceptor_, &client_acceptor_, &jpaxos_acceptor_}) {
    if (*acceptor) (*acceptor)->close(ignored);
  }
  sweep_timer_.cancel();
  for (const auto& [peer, dialer] : dialers_) dialer->stop();
  const auto connections = connections_;
  for (const auto& connection : connections) connection->close("shutdown", "");
  dirty_.clear();
  parked_.clear();
  guard_.reset();
  context_.restart();
  context_.poll();  // handlers of what was cancelled let go of their connections
}

Plane::Acceptor Plane::listen(const HostPort& address, const char* who) {
  const auto where = address.first + ":" + std::to_string(address.second);
  try {
    asio::ip::tcp::resolver resolver(context_);
    const auto found = resolver.resolve(address.first, std::to_string(address.second),
                                        asio::ip::resolver_base::passive);
    return Acceptor(context_, found.begin()->endpoint(), true);
  } catch (const std::system_error& error) {
    throw Error(ErrorKind::kConfig, "cannot listen on " + where + " for " + who + ": " +
                                        error.code().message());
  }
}

template <typename C>
void Plane::accept(Acceptor& acceptor) {
  acceptor.async_accept([this, &acceptor](const asio::error_code& error, Socket socket) {
    if (closed_ || error == asio::error::operation_aborted) return;
    if (!error) admit<C>(std::move(socket));
    if (error == asio::error::no_descriptors) {
      // Out of file descriptors: wait until some are closed instead of spinning.
      count("no_descriptors");
      auto timer = std::make_shared<asio::steady_timer>(context_, kLongestPoll);
      timer->async_wait([this, &acceptor, timer](const asio::error_code&) {
        if (!closed_) accept<C>(acceptor);
      });
      return;
    }
    accept<C>(acceptor);
  });
}

template <typename C>
void Plane::admit(Socket socket) {
  if (connections_.size() >= options_.max_connections) {
    count("closed_limit");
    return;
  }
  ConnectionPtr connection;
  if constexpr (std::is_same_v<C, PeerConnection>) {
    connection = std::make_shared<C>(*this, std::move(socket), std::nullopt);
  } else {
    connection = std::make_shared<C>(*this, std::move(socket));
  }
  count("accepted");
  connections_.insert(connection);
  connection->start();
}

void Plane::sweep() {
  const auto shortest = std::min(options_.handshake_seconds, options_.frame_seconds);
  const auto period = std::chrono::duration<double>(std::clamp(shortest / 4, 0.01, 1.0));
  sweep_timer_.expires_after(std::chrono::duration_cast<Clock::duration>(period));
  sweep_timer_.async_wait([this](const asio::error_code& error) {
    if (error || closed_) return;
    const auto now = Clock::now();
    std::vector<ConnectionPtr> late;
    for (const auto& connection : connections_) {
      if (connection->overdue(now, options_.handshake_seconds, options_.frame_seconds)) {
        late.push_back(connection);
      }
    }
    for (const auto& connection : late) {
      connection->close("slow", "a message took too long to arrive or to be taken");
    }
    sweep();
  });
}

std::array<std::uint16_t, 3> Plane::ports() const {
  const auto port = [](const std::optional<Acceptor>& acceptor) -> std::uint16_t {
    asio::error_code error;
    return acceptor ? acceptor->local_endpoint(error).port() : 0;
  };
  return {port(peer_acceptor_), port(client_acceptor_), port(jpaxos_acceptor_)};
}

void Plane::set_identity(std::string cluster, std::string machine) {
  cluster_name_ = std::move(cluster);
  machine_name_ = std::move(machine);
}

// -- the turn --------------------------------------------------------------------------------

bool Plane::something(std::size_t room) const {
  if (!events_.empty() || reads_.count() > 0 || woken_.load()) return true;
  return room > 0 && (!sealed_.empty() || commands_.count() > 0);
}

std::int64_t Plane::poll(std::int64_t until, std::size_t room, bool quorum,
                         std::vector<PlaneEvent>& events) {
  invariant(!closed_, "the plane is closed");
  refusing_ = !quorum;
  unpark();
  context_.poll();
  const auto deadline = std::min(Clock::time_point(std::chrono::nanoseconds(until)),
                                 Clock::now() + kLongestPoll);
  while (!something(room) && Clock::now() < deadline) {
    if (context_.run_one_until(deadline) > 0) context_.poll();
  }
  woken_.store(false);
  collect(room, events);
  return Clock::now().time_since_epoch().count();
}

void Plane::collect(std::size_t room, std::vector<PlaneEvent>& events) {
  events.swap(events_);
  events_.clear();
  notices_ = 0;
  if (sealed_.size() < room && commands_.count() > 0) {
    sealed_.push_back(commands_.seal(options_.replica, options_.incarnation, ++batch_number_));
  }
  const auto count = std::min(room, sealed_.size());
  for (std::size_t i = 0; i < count; ++i) {
    pending_bytes_ -= sealed_[i]->bytes().size() - sizeof(BatchHeader);
    PlaneEvent event(EventKind::kBatch);
    event.batch = std::move(sealed_[i]);
    events.push_back(std::move(event));
  }
  sealed_.erase(sealed_.begin(), sealed_.begin() + static_cast<long>(count));
  if (reads_.count() > 0) {
    PlaneEvent event(EventKind::kReads);
    event.batch = reads_.seal(options_.replica, options_.incarnation, ++read_number_);
    pending_bytes_ -= event.batch->bytes().size() - sizeof(BatchHeader);
    events.push_back(std::move(event));
  }
}

void Plane::unpark() {
  if (parked_.empty() || pending_bytes_ > options_.max_pending / 2) return;
  auto parked = std::move(parked_);
  parked_.clear();
  for (const auto& connection : parked) connection->resume();
}

void Plane::wake() {
  woken_.store(true);
  asio::post(context_, [] {});
}

void Plane::flush() {
  // Closing a connection may make another one dirty.
  while (!dirty_.empty()) {
    auto dirty = std::move(dirty_);
    dirty_.clear();
    for (const auto& connection : dirty) connection->flush();
  }
}

// -- requests and replies --------------------------------------------------------------------

void Plane::take(std::string_view entries, std::uint32_t count, bool queries) {
  pending_bytes_ += entries.size();
  if (queries) {
    reads_.append_raw(entries, count);
    return;
  }
  commands_.append_raw(entries, count);
  seal_if_large();
}

void Plane::take(const EntryHeader& entry, std::string_view payload) {
  pending_bytes_ += sizeof entry + payload.size();
  commands_.append(entry, payload);
  seal_if_large();
}

void Plane::seal_if_large() {
  if (commands_.size() < options_.max_batch) return;
  sealed_.push_back(commands_.seal(options_.replica, options_.incarnation, ++batch_number_));
}

std::uint64_t Plane::open_session(const ConnectionPtr& connection, std::uint32_t window) {
  const auto token = random();
  tokens_[token] = connection;
  EntryHeader entry{};
  entry.sequence = token;
  entry.kind = kEntryOpen;
  entry.length = sizeof window;
  take(entry, raw(window));
  return token;
}

void Plane::attach(std::uint64_t session, const ConnectionPtr& connection) {
  auto& place = sessions_[session];
  const auto older = place;
  place = connection;
  if (older == nullptr || older == connection) return;
  // One connection per session: the newest, because its client gave up the older one.
  older->close("replaced", "");
}

void Plane::detach(std::uint64_t session, const Connection* connection) {
  const auto found = sessions_.find(session);
  if (found != sessions_.end() && found->second.get() == connection) sessions_.erase(found);
}

void Plane::deliver(const ReplySet& replies) {
  for (std::size_t i = 0; i < replies.size(); ++i) {
    const auto reply = replies.at(i);
    if (reply.session != 0) {
      const auto found = sessions_.find(reply.session);
      if (found != sessions_.end()) found->second->reply(reply);
      continue;
    }
    const auto found = tokens_.find(reply.sequence);
    if (found == tokens_.end()) continue;
    const auto connection = std::move(found->second);
    tokens_.erase(found);
    if (reply.status == kStatusOpened && reply.payload.size() == sizeof(std::uint64_t)) {
      connection->opened(load<std::uint64_t>(reply.payload));
    } else {
      connection->close("refused", "its session could not be opened");
    }
  }
}

std::uint64_t Plane::register_admin(const ConnectionPtr& connection) {
  const auto token = random();
  admins_[token] = connection;
  return token;
}

void Plane::admin(std::uint64_t token, std::string_view json) {
  PlaneEvent event(EventKind::kAdmin, token);
  event.text = json;
  events_.push_back(std::move(event));
}

void Plane::answer(std::uint64_t token, std::string_view json) {
  const auto found = admins_.find(token);
  if (found == admins_.end()) return;
  static_cast<ClientConnection&>(*found->second).admin_reply(json);
}

// -- replicas --------------------------------------------------------------------------------

void Plane::dialed(std::uint16_t peer, Socket socket) {
  auto connection = std::make_shared<PeerConnection>(*this, std::move(socket), peer);
  connections_.insert(connection);
  connection->greet();
  connection->start();
  connection->flush();
}

void Plane::redial(std::uint16_t peer) {
  if (!closed_) dialers_.at(peer)->lost();
}

void Plane::peer_up(const std::shared_ptr<PeerConnection>& connection) {
  const auto peer = connection->peer();
  const auto older = peers_.find(peer);
  if (older != peers_.end()) {
    const auto keep = older->second;  // peer_down() erases it
    keep->close("replaced", "");
  }
  peers_[peer] = connection;
  PlaneEvent event(EventKind::kPeerUp, peer);
  events_.push_back(std::move(event));
  if (const auto dialer = dialers_.find(peer); dialer != dialers_.end()) dialer->second->reached();
  connection->flush();
}

void Plane::peer_down(const PeerConnection& connection) {
  const auto found = peers_.find(connection.peer());
  if (found == peers_.end() || found->second.get() != &connection) return;
  peers_.erase(found);
  PlaneEvent event(EventKind::kPeerDown, connection.peer());
  events_.push_back(std::move(event));
}

void Plane::peer_message(std::uint16_t peer, std::string_view control, Values values) {
  PlaneEvent event(EventKind::kPeerMessage, peer);
  event.text = control;
  event.values = std::move(values);
  events_.push_back(std::move(event));
}

void Plane::send(std::uint16_t peer, std::string_view control, const Values& values) {
  const auto found = peers_.find(peer);
  if (found == peers_.end()) {
    count("peer_unreachable");
    return;
  }
  found->second->send(control, values);
}

// -- what people are told --------------------------------------------------------------------

void Plane::notice(const char* port, const std::string& address, const std::string& reason) {
  if (++notices_ > kNoticesPerPoll) {
    count("notices_dropped");
    return;
  }
  PlaneEvent event(EventKind::kNotice);
  event.text = port;
  event.address = address;
  event.reason = reason;
  events_.push_back(std::move(event));
}

void Plane::forget(const ConnectionPtr& connection, const char* reason, const std::string& text) {
  connections_.erase(connection);
  ++counters_[std::string("closed_") + reason];
  if (!text.empty()) notice(connection->port(), connection->address(), text);
}

std::map<std::string, std::uint64_t> Plane::counters() const {
  auto all = counters_;
  std::uint64_t clients = 0;
  for (const auto& connection : connections_) {
    if (std::string_view(connection->port()) != "peer" && connection->ready()) ++clients;
  }
  all["clients"] = clients;
  all["connections"] = connections_.size();
  all["peers"] = peers_.size();
  all["bytes_received"] = received_;
  all["bytes_sent"] = sent_;
  all["batches"] = batch_number_;
  all["pending_bytes"] = pending_bytes_;
  return all;
}

std::uint64_t Plane::random() {
  std::uint64_t value = 0;
  invariant(::getrandom(&value, sizeof value, 0) == sizeof value, "no random numbers");
  return value | 1;  // 0 means "none"
}

}  // namespace mpaxos
