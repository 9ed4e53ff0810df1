#include "plane_readiness.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "error.hpp"

namespace mpaxos {
namespace {

constexpr int kEventsAtOnce = 256;

int make_epoll() {
  const int fd = ::epoll_create1(EPOLL_CLOEXEC);
  if (fd < 0) {
    throw Error(ErrorKind::kConfig, std::string("no epoll instance: ") + std::strerror(errno));
  }
  return fd;
}

}  // namespace

void Descriptor::close() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

Readiness::Readiness(asio::io_context& io) : epoll_(io, make_epoll()) {}

void Readiness::control(int operation, int fd, std::uint64_t id, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  invariant(::epoll_ctl(epoll_.native_handle(), operation, fd, &event) == 0,
            "a connection could not be watched");
}

void Readiness::add(int fd, std::uint64_t id, std::uint32_t events) {
  control(EPOLL_CTL_ADD, fd, id, events);
}

void Readiness::change(int fd, std::uint64_t id, std::uint32_t events) {
  control(EPOLL_CTL_MOD, fd, id, events);
}

void Readiness::poll(const std::function<bool(std::uint64_t, std::uint32_t)>& on_event) {
  std::array<epoll_event, kEventsAtOnce> events;
  // What stays ready comes again: a bound keeps a descriptor from being served twice for long.
  for (int rounds = 0; rounds < 16; ++rounds) {
    const int count = ::epoll_wait(epoll_.native_handle(), events.data(), kEventsAtOnce, 0);
    for (int i = 0; i < count; ++i) {
      const auto& event = events[static_cast<std::size_t>(i)];
      if (!on_event(event.data.u64, event.events)) return;
    }
    if (count < kEventsAtOnce) return;
  }
}

void Readiness::watch() {
  if (watching_) return;
  watching_ = true;
  epoll_.async_wait(asio::posix::stream_descriptor::wait_read,
                    [this](const asio::error_code&) { watching_ = false; });
}

}  // namespace mpaxos
