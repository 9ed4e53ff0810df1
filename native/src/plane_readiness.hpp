// Which connections can be read or written now: an epoll instance of the plane's own.
//
// asio would try each socket once more after every read, and again queue an operation for it: two
// system calls and some allocation per request of a closed-loop client. Here a socket is read once
// when the kernel says that it has something, and a turn sleeps in this epoll instance. asio keeps
// what happens seldom: accepting, connecting, resolving, timers. Listening sockets are watched here
// too, to know when asio has something to do; while a peer is dialled, asio waits for this epoll
// instance like for any other descriptor.
#pragma once

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <cstdint>
#include <functional>
#include <utility>

#include "descriptor.hpp"

namespace mpaxos {

class Readiness {
 public:
  explicit Readiness(asio::io_context& io);

  // From now on told of under `id`; `events` are those of epoll, level-triggered. What comes to an
  // `urgent` one ends a nap().
  void add(int fd, std::uint64_t id, std::uint32_t events, bool urgent);
  void change(int fd, std::uint64_t id, std::uint32_t events, bool urgent);

  // A listening socket: something that comes there makes asio_called() true once.
  void add_listener(int fd);
  bool asio_called() { return std::exchange(asio_called_, false); }

  // Calls `on_event(id, events)` for what is ready, each descriptor once, until it returns false.
  // Waits up to `patience` ns for the first, or for wake(). False when a signal ended the wait.
  bool poll(std::int64_t patience,
            const std::function<bool(std::uint64_t, std::uint32_t)>& on_event);
  // Waits up to `patience` ns for something urgent, or for wake(). False when a signal ended it.
  bool nap(std::int64_t patience);
  // Ends the wait of poll() or nap(), or the next one. Safe from any thread.
  void wake();
  // Before the io_context blocks: lets it return as soon as something is ready.
  void watch();

 private:
  void control(int operation, int fd, std::uint64_t id, std::uint32_t events, bool urgent);
  asio::posix::stream_descriptor epoll_;
  Descriptor urgent_;  // an epoll instance of the urgent ones
  Descriptor wake_;
  bool asio_called_ = false;
  bool watching_ = false;
};

}  // namespace mpaxos
