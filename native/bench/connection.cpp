#include "connection.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>

namespace mpaxos::load {

Nanos now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return Nanos{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

Endpoint resolve(const Address& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
  const auto text = address.host + ":" + address.port;
  if (error != 0) throw Failure(text + ": " + gai_strerror(error));
  Endpoint endpoint;
  std::memcpy(&endpoint.storage, found->ai_addr, found->ai_addrlen);
  endpoint.length = found->ai_addrlen;
  endpoint.text = text;
  freeaddrinfo(found);
  return endpoint;
}

bool Connection::connect(const Endpoint& endpoint) {
  fd = ::socket(endpoint.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) throw Failure(std::string("no more sockets: ") + std::strerror(errno));
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  state = State::kConnecting;
  out.clear();
  left_.clear();
  sent_ = 0;
  watching = true;
  const auto* address = reinterpret_cast<const sockaddr*>(&endpoint.storage);
  return ::connect(fd, address, endpoint.length) == 0 || errno == EINPROGRESS;
}

void Connection::hang_up() {
  if (fd >= 0) ::close(fd);
  fd = -1;
  if (state != State::kClosed) state = State::kIdle;
}

bool Connection::receive(std::string& shared, std::string_view& bytes) {
  const auto count = ::recv(fd, shared.data(), shared.size(), 0);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  if (count == 0) return false;
  received += static_cast<std::uint64_t>(count);
  bytes = {shared.data(), static_cast<std::size_t>(count)};
  if (!left_.empty()) {
    left_.append(bytes);
    bytes = left_;
  }
  return true;
}

void Connection::keep(std::string_view bytes, std::size_t taken) {
  if (!left_.empty()) {
    left_.erase(0, taken);
  } else if (taken < bytes.size()) {
    left_.assign(bytes.substr(taken));
  }
}

bool Connection::send() {
  while (blocked()) {
    const auto count = ::send(fd, out.data() + sent_, out.size() - sent_, MSG_NOSIGNAL);
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN;
    }
    sent_ += static_cast<std::size_t>(count);
    written += static_cast<std::uint64_t>(count);
  }
  out.clear();
  sent_ = 0;
  return true;
}

}  // namespace mpaxos::load
