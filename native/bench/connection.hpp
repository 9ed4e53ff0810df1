// One connection of the load generator: a socket, its protocol, what waits to be sent.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "protocol.hpp"

namespace mpaxos::load {

// The address of a server, resolved once.
struct Endpoint {
  sockaddr_storage storage{};
  socklen_t length = 0;
  std::string text;
};
Endpoint resolve(const Address& address);  // throws Failure

Nanos now();

// Not a class with secrets: the worker that owns it is the only one to touch it.
struct Connection {
  enum class State { kIdle, kConnecting, kGreeting, kReady, kClosed };

  Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection() { hang_up(); }

  // Begins to connect, without blocking. False with errno where that fails at once, as it does
  // on one machine when nobody listens.
  bool connect(const Endpoint& endpoint);
  void hang_up();

  // Reads once into the shared buffer; `bytes` is what there is to parse, with what was left of
  // the read before. False when the other side has hung up.
  bool receive(std::string& shared, std::string_view& bytes);
  // Keeps what the protocol did not take.
  void keep(std::string_view bytes, std::size_t taken);
  // Writes what it can; false when the connection broke. `blocked` tells whether some is left.
  bool send();
  bool blocked() const { return sent_ < out.size(); }

  int fd = -1;
  State state = State::kIdle;
  std::size_t endpoint = 0;
  std::uint32_t in_flight = 0;
  bool watching = false;  // epoll tells when more can be written
  bool dirty = false;     // has something for the end of the turn
  bool retrying = false;
  std::string last_words;  // what the server said before it hung up
  std::uint64_t received = 0;
  std::uint64_t written = 0;
  std::unique_ptr<Protocol> protocol;
  std::string out;
  std::deque<Nanos> backlog;  // open loop: when requests that found no room were meant to start

 private:
  std::string left_;
  std::size_t sent_ = 0;
};

}  // namespace mpaxos::load
