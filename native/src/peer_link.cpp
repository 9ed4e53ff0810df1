#include <algorithm>
#include <asio/connect.hpp>

#include "peer_connection.hpp"
#include "plane_hub.hpp"

namespace mpaxos {

using asio::ip::tcp;

namespace {

constexpr std::int64_t kMillisecond = 1'000'000;
constexpr std::int64_t kFirstBackoff = 20 * kMillisecond;
constexpr std::int64_t kLastBackoff = 100 * kMillisecond;  // a restarted replica waits for it
constexpr std::int64_t kConnectTime = 3'000 * kMillisecond;

// On loopback, dialling a free port of the ephemeral range can meet itself.
bool met_itself(const tcp::socket& socket) {
  asio::error_code error;
  const auto local = socket.local_endpoint(error);
  return !error && local == socket.remote_endpoint(error) && !error;
}

}  // namespace

PeerLink::PeerLink(Hub& hub, PeerLinks& links, std::uint16_t peer, Address address)
    : hub_(hub),
      links_(links),
      peer_(peer),
      address_(std::move(address)),
      dials_(hub.options().replica > peer),
      resolver_(hub.io()),
      socket_(hub.io()),
      timer_(hub.io()),
      backoff_(kFirstBackoff) {}

void PeerLink::start() {
  if (dials_) dial();
}

void PeerLink::stop() {
  stopped_ = true;
  resolver_.cancel();
  timer_.cancel();
  asio::error_code ignored;
  socket_.close(ignored);
}

// Each attempt has a number; handlers of an attempt that is over do nothing.
void PeerLink::dial() {
  if (stopped_) return;
  const auto attempt = ++attempt_;
  timer_.expires_after(std::chrono::nanoseconds(kConnectTime));
  timer_.async_wait([self = shared_from_this(), attempt](const asio::error_code& error) {
    if (error || self->stopped_ || attempt != self->attempt_) return;
    asio::error_code ignored;
    self->socket_.close(ignored);
    self->failed("no answer in time");
  });
  asio::error_code error;
  const auto literal = asio::ip::make_address(address_.host, error);
  if (error) return resolve(attempt);
  connect(attempt, {tcp::endpoint(literal, address_.port)});
}

// Anew for each attempt: a replica may have moved.
void PeerLink::resolve(std::uint64_t attempt) {
  resolver_.async_resolve(
      address_.host, std::to_string(address_.port),
      [self = shared_from_this(), attempt](const asio::error_code& error,
                                           const tcp::resolver::results_type& results) {
        if (self->stopped_ || attempt != self->attempt_) return;
        if (error) return self->failed("its name does not resolve: " + error.message());
        std::vector<tcp::endpoint> endpoints;
        for (const auto& result : results) endpoints.push_back(result.endpoint());
        self->connect(attempt, endpoints);
      });
}

void PeerLink::connect(std::uint64_t attempt, const std::vector<tcp::endpoint>& endpoints) {
  asio::error_code ignored;
  socket_.close(ignored);
  socket_ = tcp::socket(hub_.io());
  asio::async_connect(socket_, endpoints,
                      [self = shared_from_this(), attempt](const asio::error_code& error,
                                                           const tcp::endpoint&) {
                        self->connected(attempt, error);
                      });
}

void PeerLink::connected(std::uint64_t attempt, const asio::error_code& error) {
  if (stopped_ || attempt != attempt_) return;
  if (error) return failed(error.message());
  if (met_itself(socket_)) {
    asio::error_code ignored;
    socket_.close(ignored);
    return failed("Connection refused");
  }
  ++attempt_;
  timer_.cancel();
  std::make_shared<PeerConnection>(hub_, links_, std::move(socket_), shared_from_this())->start();
}

void PeerLink::failed(const std::string& why) {
  ++attempt_;
  const auto text = "cannot connect to replica " + std::to_string(peer_) + ": " + why +
                    "; it is tried again and again";
  // Told once, whatever the reasons of further attempts.
  if (told_.empty()) {
    told_ = text;
    hub_.notice(Port::kPeer, address_.text(), text);
  }
  retry();
}

void PeerLink::retry() {
  if (stopped_ || !dials_) return;
  timer_.expires_after(std::chrono::nanoseconds(backoff_));
  backoff_ = std::min(backoff_ * 2, kLastBackoff);
  timer_.async_wait([self = shared_from_this()](const asio::error_code& error) {
    if (!error) self->dial();
  });
}

bool PeerLink::worth_a_notice(const std::string& text) {
  if (told_ == text) return false;
  told_ = text;
  return true;
}

void PeerLink::up(std::shared_ptr<PeerConnection> connection) {
  if (const auto older = std::exchange(current_, std::move(connection))) {
    hub_.push({.kind = kEventPeerDown, .peer = peer_});
    older->close(Reason::kReplaced);
  }
  told_.clear();
  backoff_ = kFirstBackoff;
  hub_.push({.kind = kEventPeerUp, .peer = peer_});
}

void PeerLink::lost(const PeerConnection* connection, bool dialled) {
  if (current_.get() == connection) {
    current_ = nullptr;
    if (!stopped_) hub_.push({.kind = kEventPeerDown, .peer = peer_});
  }
  if (dialled && !current_) retry();
}

PeerLinks::PeerLinks(Hub& hub) : hub_(hub) {
  for (const auto& [peer, address] : hub.options().peers) {
    links_.emplace(peer, std::make_shared<PeerLink>(hub, *this, peer, address));
  }
}

void PeerLinks::start() {
  for (const auto& [peer, link] : links_) link->start();
}

void PeerLinks::stop() {
  for (const auto& [peer, link] : links_) link->stop();
}

bool PeerLinks::dialling() const {
  return std::any_of(links_.begin(), links_.end(),
                     [](const auto& entry) { return entry.second->dialling(); });
}

std::shared_ptr<PeerLink> PeerLinks::find(std::uint16_t peer) const {
  const auto found = links_.find(peer);
  return found == links_.end() ? nullptr : found->second;
}

void PeerLinks::send(std::uint16_t peer, std::string_view control, const TimedBatches& values,
                     bool vote) {
  const auto found = links_.find(peer);
  if (found == links_.end() || !found->second->current()) {
    ++hub_.counters().peer_dropped;
    return;
  }
  found->second->current()->send(control, values, vote);
}

void PeerLinks::send_chunk(std::uint16_t peer, std::string_view control, const ChunkPtr& chunk) {
  const auto found = links_.find(peer);
  if (found == links_.end() || !found->second->current()) {
    ++hub_.counters().peer_dropped;
    return;
  }
  found->second->current()->send_chunk(control, chunk);
}

}  // namespace mpaxos
