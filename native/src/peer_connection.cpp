#include "peer_connection.hpp"

#include <cstring>

#include "plane.hpp"

namespace mpaxos {
namespace {

constexpr std::uint32_t kFrameLimit = 128 << 20;
constexpr std::size_t kQueueLimit = 64 << 20;
constexpr std::chrono::milliseconds kFirstBackoff{20};
constexpr std::chrono::milliseconds kLongestBackoff{500};

}  // namespace

PeerConnection::PeerConnection(Plane& plane, Socket socket, std::optional<std::uint16_t> expected)
    : Connection(plane, std::move(socket), "peer"), expected_(expected) {}

// send() drops what is beyond the limit, so that a slow peer is never cut off for it.
std::size_t PeerConnection::queue_limit() const { return 2 * (kQueueLimit + kFrameLimit); }

void PeerConnection::greet() {
  const auto& options = plane_.options();
  PeerHelloFrame frame{};
  frame.protocol = kProtocol;
  frame.sender = options.replica;
  frame.receiver = expected_ ? *expected_ : peer_;
  std::memcpy(frame.cluster, options.cluster.data(), sizeof frame.cluster);
  frame.incarnation = options.incarnation;
  frame.agreement = options.agreement;
  queue(make_frame(kPeerHello, raw(frame)));
}

std::size_t PeerConnection::consume(std::string_view data) {
  if (data.size() < sizeof(FrameHeader)) {
    if (std::string_view("mPx1").substr(0, data.size()) != data.substr(0, 4)) {
      throw BadInput("garbage", "this is not the mpaxos protocol");
    }
    return 0;
  }
  const auto header = parse_header(data, ready() ? kFrameLimit : sizeof(PeerHelloFrame));
  const auto total = sizeof header + header.length;
  if (data.size() < total) {
    want(total);
    return 0;
  }
  const auto payload = data.substr(sizeof header, header.length);
  if (header.kind == kPeerHello && !ready()) {
    check_frame(header, payload);
    hello(payload);
  } else if (header.kind == kPeer && ready()) {
    message(header, payload);
  } else {
    throw BadInput("protocol", "a frame of kind " + std::to_string(header.kind) +
                                   " does not belong here");
  }
  return total;
}

void PeerConnection::hello(std::string_view payload) {
  if (payload.size() != sizeof(PeerHelloFrame)) {
    throw BadInput("protocol", "a hello of wrong size");
  }
  const auto frame = load<PeerHelloFrame>(payload);
  const auto& options = plane_.options();
  const auto who = "replica " + std::to_string(frame.sender);
  if (frame.protocol != kProtocol) {
    throw BadInput("version", who + " speaks protocol " + std::to_string(frame.protocol) +
                                  ", we speak " + std::to_string(kProtocol));
  }
  if (std::memcmp(frame.cluster, options.cluster.data(), sizeof frame.cluster) != 0) {
    throw BadInput("cluster", who + " belongs to another cluster: check the addresses");
  }
  const bool expected = expected_ ? frame.sender == *expected_ : frame.sender > options.replica;
  if (frame.receiver != options.replica || !expected || !plane_.is_peer(frame.sender)) {
    throw BadInput("identity", who + " meant to talk to replica " +
                                   std::to_string(frame.receiver) + ", we are replica " +
                                   std::to_string(options.replica) + ": check the addresses");
  }
  if (frame.agreement != options.agreement) {
    throw BadInput("agreement", "the settings of " + who +
                                    " differ from ours: the cluster file must be the same on all "
                                    "replicas");
  }
  peer_ = frame.sender;
  if (!expected_) greet();
  became_ready();
  plane_.peer_up(std::static_pointer_cast<PeerConnection>(shared_from_this()));
}

void PeerConnection::message(const FrameHeader& header, std::string_view payload) {
  constexpr auto kTruncated = "a message's parts do not fit its length";
  if (payload.size() < sizeof(PeerFrameHeader)) throw BadInput("protocol", kTruncated);
  const auto counts = load<PeerFrameHeader>(payload);
  auto rest = payload.size() - sizeof counts;
  if (counts.batches > rest / sizeof(PeerFrameBatch)) throw BadInput("protocol", kTruncated);
  const auto table_size = counts.batches * sizeof(PeerFrameBatch);
  rest -= table_size;
  if (counts.control_length > rest) throw BadInput("protocol", kTruncated);
  const auto covered = sizeof counts + table_size + counts.control_length;
  check_frame(header, payload.substr(0, covered));
  const auto control = payload.substr(sizeof counts + table_size, counts.control_length);
  std::vector<std::pair<std::uint64_t, BatchPtr>> values;
  auto at = covered;
  for (std::uint32_t i = 0; i < counts.batches; ++i) {
    const auto item =
        load<PeerFrameBatch>(payload.substr(sizeof counts + i * sizeof(PeerFrameBatch)));
    if (item.length > payload.size() - at) throw BadInput("protocol", kTruncated);
    auto batch = Batch::parse(std::string(payload.substr(at, item.length)));
    if (batch->digest() != item.digest) {
      throw BadInput("digest", "a batch does not match its digest");
    }
    at += item.length;
    values.emplace_back(item.time, std::move(batch));
  }
  if (at != payload.size()) throw BadInput("protocol", kTruncated);
  plane_.peer_message(peer_, control, std::move(values));
}

void PeerConnection::send(std::string_view control,
                          const std::vector<std::pair<std::uint64_t, BatchPtr>>& values) {
  std::size_t size = 0;
  for (const auto& [time, batch] : values) size += batch->bytes().size();
  const auto length =
      sizeof(PeerFrameHeader) + values.size() * sizeof(PeerFrameBatch) + control.size() + size;
  if (queued() + length > kQueueLimit || length > kFrameLimit) {
    plane_.count("peer_dropped");
    return;
  }
  std::string front(sizeof(FrameHeader), '\0');
  const PeerFrameHeader counts{static_cast<std::uint32_t>(control.size()),
                               static_cast<std::uint32_t>(values.size())};
  front.append(raw(counts));
  for (const auto& [time, batch] : values) {
    const PeerFrameBatch item{time, batch->digest(),
                              static_cast<std::uint32_t>(batch->bytes().size()), 0};
    front.append(raw(item));
  }
  front.append(control);
  const auto header =
      make_header(kPeer, length, std::string_view(front).substr(sizeof(FrameHeader)));
  std::memcpy(front.data(), &header, sizeof header);
  queue(std::move(front));
  for (const auto& [time, batch] : values) queue(batch);
}

void PeerConnection::on_closed() {
  if (ready()) plane_.peer_down(*this);
  if (expected_) plane_.redial(*expected_);
}

// -- dialing ---------------------------------------------------------------------------------

Dialer::Dialer(Plane& plane, std::uint16_t peer, std::string host, std::uint16_t port)
    : plane_(plane),
      peer_(peer),
      host_(std::move(host)),
      port_(std::to_string(port)),
      resolver_(plane.context()),
      timer_(plane.context()),
      backoff_(kFirstBackoff) {}

void Dialer::start() { resolve(); }

void Dialer::stop() {
  stopped_ = true;
  timer_.cancel();
  resolver_.cancel();
  asio::error_code ignored;
  if (socket_) socket_->close(ignored);
}

// Names are resolved anew at each attempt: a machine may get its name later, or another address.
void Dialer::resolve() {
  if (stopped_) return;
  resolver_.async_resolve(host_, port_,
                          [self = shared_from_this()](const asio::error_code& error, auto results) {
                            if (self->stopped_) return;
                            if (error) {
                              self->failed("cannot resolve " + self->host_ + ": " +
                                           error.message());
                            } else {
                              self->connect(results);
                            }
                          });
}

void Dialer::connect(const asio::ip::tcp::resolver::results_type& endpoints) {
  socket_ = std::make_shared<Socket>(plane_.context());
  asio::async_connect(
      *socket_, endpoints,
      [self = shared_from_this()](const asio::error_code& error, const auto&) {
        if (self->stopped_) return;
        if (error) {
          self->failed("cannot connect to " + self->host_ + ":" + self->port_ + ": " +
                       error.message());
          return;
        }
        self->told_ = false;
        self->plane_.dialed(self->peer_, std::move(*self->socket_));
      });
}

void Dialer::failed(const std::string& why) {
  if (!told_) plane_.notice("peer", "replica " + std::to_string(peer_), why + "; trying on");
  told_ = true;
  again();
}

void Dialer::reached() { backoff_ = kFirstBackoff; }

void Dialer::lost() { again(); }

void Dialer::again() {
  if (stopped_) return;
  timer_.expires_after(backoff_);
  backoff_ = std::min(backoff_ * 2, kLongestBackoff);
  timer_.async_wait([self = shared_from_this()](const asio::error_code& error) {
    if (!error) self->resolve();
  });
}

}  // namespace mpaxos
