// What both limit programs share: listening, and a line that says that they are ready.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace limit {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "%s: %s\n", what, std::strerror(errno));
  std::exit(1);
}

inline void set_no_delay(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

inline sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Listens on the loopback interface and raises the limit of open files as far as it goes.
inline int listen_on(int port) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  const int one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  const auto address = loopback(port);
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) fail("bind");
  if (listen(fd, 4096) != 0) fail("listen");
  return fd;
}

inline int accept_from(int listener) {
  const int fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK);
  if (fd >= 0) set_no_delay(fd);
  return fd;
}

inline int connect_to(int port) {
  const auto address = loopback(port);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    fail("connect");
  }
  set_no_delay(fd);
  return fd;
}

// A program that outlives the benchmark would disturb the next one.
inline void start() {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::signal(SIGPIPE, SIG_IGN);
  // As mpaxos does, see docs/performance.md: a limit should be at its best.
  const sched_param none{};
  sched_setscheduler(0, SCHED_BATCH, &none);
}

inline void ready() {
  std::puts("ready");
  std::fflush(stdout);
}

inline void watch(int epoll, int fd, std::uint32_t events, void* what, int how = EPOLL_CTL_ADD) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = what;
  if (epoll_ctl(epoll, how, fd, &event) != 0) fail("epoll_ctl");
}

// Writes all or what the socket takes; false when the connection is gone. What is left stays.
inline bool write_out(int fd, std::string& out) {
  std::size_t sent = 0;
  bool alive = true;
  while (sent < out.size()) {
    const auto count = send(fd, out.data() + sent, out.size() - sent, MSG_NOSIGNAL);
    if (count < 0) {
      alive = errno == EAGAIN;
      break;
    }
    sent += static_cast<std::size_t>(count);
  }
  out.erase(0, sent);
  return alive;
}

}  // namespace limit
