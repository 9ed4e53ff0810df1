#include "plane_connection.hpp"

#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>

#include "error.hpp"
#include "plane_hub.hpp"

namespace mpaxos {

using asio::ip::tcp;

namespace {

constexpr std::size_t kClientBuffer = 8 * 1024;
constexpr std::size_t kClientKeep = 64 * 1024;
constexpr std::size_t kPeerBuffer = 64 * 1024;
constexpr std::size_t kPeerKeep = 4 << 20;  // a chunk of an image is half as large
constexpr std::size_t kClientAhead = 4;
constexpr std::size_t kPeerAhead = 16;

std::string address_of(const tcp::socket& socket) {
  asio::error_code error;
  const auto endpoint = socket.remote_endpoint(error);
  if (error) return "unknown";
  return Address{endpoint.address().to_string(), endpoint.port()}.text();
}

void set_option(int fd, int level, int name, int value) {
  ::setsockopt(fd, level, name, &value, sizeof value);  // where it fails, nothing depends on it
}

// A machine that lost its power says no goodbye: notice it within some ten seconds. Heartbeats
// notice it sooner; this only frees the connection for a new one.
void detect_dead_peer(int fd) {
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 5);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 2);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 11'000);
}

// asio gives the socket up: it is watched by Readiness from here on.
int taken_from(tcp::socket& socket) {
  asio::error_code error;
  socket.non_blocking(true, error);
  const int fd = socket.release(error);
  invariant(!error && fd >= 0, "a socket could not be taken over");
  return fd;
}

ssize_t send_pieces(int fd, const std::vector<asio::const_buffer>& pieces) {
  if (pieces.size() == 1) return ::send(fd, pieces[0].data(), pieces[0].size(), MSG_NOSIGNAL);
  std::array<iovec, kMaxPieces> vectors;
  invariant(pieces.size() <= vectors.size(), "more pieces than one system call takes");
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    vectors[i] = {const_cast<void*>(pieces[i].data()), pieces[i].size()};
  }
  msghdr message{};
  message.msg_iov = vectors.data();
  message.msg_iovlen = pieces.size();
  return ::sendmsg(fd, &message, MSG_NOSIGNAL);
}

bool not_now(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

}  // namespace

Connection::Connection(Hub& hub, tcp::socket socket, Port port)
    : hub_(hub),
      socket_(-1),
      in_(port == Port::kPeer ? kPeerBuffer : kClientBuffer,
          port == Port::kPeer ? kPeerKeep : kClientKeep,
          port == Port::kPeer ? kPeerAhead : kClientAhead),
      port_(port),
      address_(address_of(socket)),
      id_(hub.next_id()),
      began_(monotonic_now()) {
  socket_.reset(taken_from(socket));
  set_option(socket_.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  if (port == Port::kPeer) detect_dead_peer(socket_.get());
}

void Connection::start() {
  hub_.add(shared_from_this());
  hub_.readiness().add(socket_.get(), id_, EPOLLIN, port_ == Port::kPeer);
}

void Connection::show_interest() {
  std::uint32_t events = 0;
  if (!parked_) events |= EPOLLIN;
  if (awaiting_writable_) events |= EPOLLOUT;
  hub_.readiness().change(socket_.get(), id_, events, port_ == Port::kPeer);
}

void Connection::on_ready(std::uint32_t events) {
  if (closed_) return;
  const bool broken = (events & (EPOLLERR | EPOLLHUP)) != 0;
  if (awaiting_writable_ && (broken || (events & EPOLLOUT) != 0)) {
    awaiting_writable_ = false;
    show_interest();
    write();
  }
  if (closed_) return;
  if (parked_) {
    // Nobody is there any more; what it sent last would find nobody to answer to.
    if (broken) close(Reason::kReset);
    return;
  }
  if (broken || (events & EPOLLIN) != 0) read();
}

// Once: what does not fit is told of again.
void Connection::read() {
  const auto space = in_.prepare(wanted_);
  const auto size = ::recv(socket_.get(), space.data(), space.size(), 0);
  if (size > 0) return on_bytes(static_cast<std::size_t>(size));
  if (size < 0) {
    if (!not_now(errno)) close(Reason::kReset);
    return;
  }
  if (parting_ || in_.empty()) return close(Reason::kEof);
  close(Reason::kTruncated, "the stream ended inside a frame");
}

void Connection::on_bytes(std::size_t size) {
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
  if (closed_ || parting_ || !brings_requests() || !hub_.full()) return;
  parked_ = true;
  show_interest();
  hub_.park(shared_from_this());
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
  show_interest();
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
    const auto size = send_pieces(socket_.get(), pieces);
    if (size < 0) {
      if (not_now(errno)) return await_writable();
      return close(Reason::kReset);
    }
    hub_.count_write(static_cast<std::size_t>(size));
    out_.written(static_cast<std::size_t>(size));
    if (static_cast<std::size_t>(size) < total) return await_writable();
  }
  if (parting_) ::shutdown(socket_.get(), SHUT_WR);
}

void Connection::await_writable() {
  awaiting_writable_ = true;
  show_interest();
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
  socket_.close();  // epoll forgets it with that
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
