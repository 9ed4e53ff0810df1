#include "plane_connection.hpp"

#include <netinet/tcp.h>

#include "error.hpp"
#include "plane_hub.hpp"

namespace mpaxos {

using asio::ip::tcp;

namespace {

constexpr std::size_t kClientBuffer = 8 * 1024;
constexpr std::size_t kClientKeep = 64 * 1024;
constexpr std::size_t kPeerBuffer = 64 * 1024;
constexpr std::size_t kPeerKeep = 1024 * 1024;  // peers send large frames all the time

std::string address_of(const tcp::socket& socket) {
  asio::error_code error;
  const auto endpoint = socket.remote_endpoint(error);
  if (error) return "unknown";
  return Address{endpoint.address().to_string(), endpoint.port()}.text();
}

// A machine that lost its power says no goodbye: notice it within some ten seconds. Heartbeats
// notice it sooner; this only frees the connection for a new one.
void detect_dead_peer(tcp::socket& socket) {
  asio::error_code ignored;
  socket.set_option(tcp::socket::keep_alive(true), ignored);
  const auto set = [&](int name, int value) {
    ::setsockopt(socket.native_handle(), IPPROTO_TCP, name, &value, sizeof value);
  };
  set(TCP_KEEPIDLE, 5);
  set(TCP_KEEPINTVL, 2);
  set(TCP_KEEPCNT, 3);
  set(TCP_USER_TIMEOUT, 11'000);
}

}  // namespace

Connection::Connection(Hub& hub, tcp::socket socket, Port port)
    : hub_(hub),
      socket_(std::move(socket)),
      in_(port == Port::kPeer ? kPeerBuffer : kClientBuffer,
          port == Port::kPeer ? kPeerKeep : kClientKeep),
      port_(port),
      address_(address_of(socket_)),
      id_(hub.next_id()),
      began_(monotonic_now()) {
  asio::error_code ignored;
  socket_.non_blocking(true, ignored);
  socket_.set_option(tcp::no_delay(true), ignored);
  if (port == Port::kPeer) detect_dead_peer(socket_);
}

void Connection::start() {
  hub_.add(shared_from_this());
  read();
}

void Connection::read() {
  // After a read that did not fill its space, asio waits for the next edge of epoll instead of
  // trying again: one recv per request of a closed-loop client, none that returns EAGAIN.
  socket_.async_read_some(in_.prepare(wanted_),
                          [self = shared_from_this()](const asio::error_code& error,
                                                      std::size_t size) {
                            self->on_read(error, size);
                          });
}

void Connection::on_read(const asio::error_code& error, std::size_t size) {
  if (closed_) return;
  if (error == asio::error::operation_aborted) return;
  if (error == asio::error::eof) {
    if (parting_ || in_.empty()) return close(Reason::kEof);
    return close(Reason::kTruncated, "the stream ended inside a frame");
  }
  if (error) return close(Reason::kReset);
  hub_.count_read(size);
  in_.commit(size);
  if (parting_) {
    in_.clear();
  } else {
    try {
      on_data();
    } catch (const Violation& violation) {
      part(violation.reason, violation.text, true);
    } catch (const Error& wrong) {
      if (wrong.kind() != ErrorKind::kWire) throw;
      part(Reason::kProtocol, wrong.what(), true);
    }
  }
  if (closed_) return;
  if (!parting_ && brings_requests() && hub_.full()) {
    parked_ = true;
    return hub_.park(shared_from_this());
  }
  read();
}

void Connection::on_data() {
  wanted_ = 0;
  const auto taken = take(in_.data());
  if (closed_ || parting_) return;
  in_.take(taken);
  if (in_.empty()) {
    frame_began_ = 0;
  } else if (taken > 0 || frame_began_ == 0) {
    frame_began_ = monotonic_now();
  }
}

void Connection::resume() {
  if (!parked_) return;
  parked_ = false;
  if (closed_) return;
  // The time it was not read does not count against it.
  if (frame_began_ != 0) frame_began_ = monotonic_now();
  read();
}

void Connection::mark_dirty() {
  if (dirty_ || closed_) return;
  dirty_ = true;
  hub_.dirty(shared_from_this());
}

void Connection::write() {
  dirty_ = false;
  if (closed_ || awaiting_writable_) return;
  finish_queue();
  auto& pieces = hub_.scratch();
  while (!out_.empty()) {
    const auto total = out_.gather(pieces);
    asio::error_code error;
    const auto size = pieces.size() == 1 ? socket_.write_some(pieces[0], error)
                                         : socket_.write_some(pieces, error);
    if (error == asio::error::would_block || error == asio::error::try_again) {
      return await_writable();
    }
    if (error) return close(Reason::kReset);
    hub_.count_write(size);
    out_.written(size);
    if (size < total) return await_writable();
  }
  if (parting_) {
    asio::error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
  }
}

void Connection::await_writable() {
  awaiting_writable_ = true;
  socket_.async_wait(tcp::socket::wait_write,
                     [self = shared_from_this()](const asio::error_code& error) {
                       self->awaiting_writable_ = false;
                       if (!error) self->write();
                     });
}

void Connection::leave() {
  if (left_) return;
  left_ = true;
  gone();
}

void Connection::close(Reason reason, const std::string& text) {
  if (closed_) return;
  const auto self = shared_from_this();
  closed_ = true;
  asio::error_code ignored;
  socket_.close(ignored);
  // Whoever is parting has been counted with its real reason already.
  if (!parting_) hub_.count_closed(*this, reason, text);
  leave();
  hub_.remove(*this);
}

void Connection::part(Reason reason, const std::string& text, bool notice) {
  if (closed_ || parting_) return;
  finish_queue();
  if (!last_word(text)) return close(reason, notice ? text : "");
  // Closing now would reset the connection if bytes of the other side are still unread, and the
  // last word could be lost with it. So: write, shut down our half, read on to the other's end.
  hub_.count_closed(*this, reason, notice ? text : "");
  parting_ = true;
  began_ = monotonic_now();
  in_.clear();
  wanted_ = 0;
  leave();
  write();
  resume();
}

void Connection::sweep(std::int64_t now, std::int64_t excused) {
  if (closed_ || parked_) return;
  began_ += excused;
  if (frame_began_ != 0) frame_began_ += excused;
  const auto& limits = hub_.limits();
  if (parting_) {
    if (now - began_ > limits.handshake) close(Reason::kSlow);
  } else if (!greeted_ && now - began_ > limits.handshake) {
    close(Reason::kSlow, "no complete greeting in time");
  } else if (frame_began_ != 0 && now - frame_began_ > limits.frame) {
    close(Reason::kSlow, "a frame was not complete in time");
  }
}

std::size_t FramedConnection::take(std::string_view data) {
  std::size_t at = 0;
  while (at < data.size() && !closed() && !parting_) {
    const auto rest = data.substr(at);
    const auto header = peek_frame(rest);
    if (!header) break;
    const auto limit = frame_limit(header->kind);
    if (header->length > limit) {
      throw Violation{Reason::kOversize, "a frame of kind " + std::to_string(header->kind) +
                                             " announces " + std::to_string(header->length) +
                                             " bytes, the limit is " + std::to_string(limit)};
    }
    const auto size = sizeof(FrameHeader) + header->length;
    if (rest.size() < size) {
      wanted_ = size;
      break;
    }
    const auto payload = rest.substr(sizeof(FrameHeader), header->length);
    const auto covered = check_frame(*header, payload);
    hub_.count_frame();
    on_frame(header->kind, payload, covered);
    at += size;
  }
  return at;
}

}  // namespace mpaxos
