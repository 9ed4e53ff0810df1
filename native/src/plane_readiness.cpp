#include "plane_readiness.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
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
constexpr std::int64_t kMillisecond = 1'000'000;
constexpr std::int64_t kSecond = 1'000'000'000;
// Numbers that no connection has.
constexpr std::uint64_t kListener = 0;
constexpr std::uint64_t kWake = ~std::uint64_t{0};

int make_epoll() {
  const int fd = ::epoll_create1(EPOLL_CLOEXEC);
  if (fd < 0) {
    throw Error(ErrorKind::kConfig, std::string("no epoll instance: ") + std::strerror(errno));
  }
  return fd;
}

int make_eventfd() {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) throw Error(ErrorKind::kConfig, std::string("no eventfd: ") + std::strerror(errno));
  return fd;
}

}  // namespace

Readiness::Readiness(asio::io_context& io)
    : epoll_(io, make_epoll()), urgent_(make_epoll()), wake_(make_eventfd()) {
  add(wake_.get(), kWake, EPOLLIN, true);
}

void Readiness::control(int operation, int fd, std::uint64_t id, std::uint32_t events,
                        bool urgent) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  const bool done = ::epoll_ctl(epoll_.native_handle(), operation, fd, &event) == 0 &&
                    (!urgent || ::epoll_ctl(urgent_.get(), operation, fd, &event) == 0);
  invariant(done, "a connection could not be watched");
}

void Readiness::add(int fd, std::uint64_t id, std::uint32_t events, bool urgent) {
  control(EPOLL_CTL_ADD, fd, id, events, urgent);
}

void Readiness::change(int fd, std::uint64_t id, std::uint32_t events, bool urgent) {
  control(EPOLL_CTL_MOD, fd, id, events, urgent);
}

// Edge-triggered: a connection that asio does not take up now, as it has run out of descriptors,
// must not end every wait.
void Readiness::add_listener(int fd) { add(fd, kListener, EPOLLIN | EPOLLET, false); }

void Readiness::wake() {
  const std::uint64_t one = 1;
  // Can only fail when the counter is full, and then the wait is over already.
  [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
}

bool Readiness::poll(std::int64_t patience,
                     const std::function<bool(std::uint64_t, std::uint32_t)>& on_event) {
  std::array<epoll_event, kEventsAtOnce> events;
  // Rounded up: waking early would only mean another wait.
  auto timeout = static_cast<int>((patience + kMillisecond - 1) / kMillisecond);
  // What stays ready comes again: a bound keeps a descriptor from being served twice for long.
  for (int rounds = 0; rounds < 16; ++rounds) {
    const int count = ::epoll_wait(epoll_.native_handle(), events.data(), kEventsAtOnce, timeout);
    if (count < 0) return false;  // a signal: its handler may be Python's
    timeout = 0;
    for (int i = 0; i < count; ++i) {
      const auto& event = events[static_cast<std::size_t>(i)];
      if (event.data.u64 == kListener) {
        asio_called_ = true;
      } else if (event.data.u64 == kWake) {
        std::uint64_t count_of_wakes = 0;
        [[maybe_unused]] const auto size =
            ::read(wake_.get(), &count_of_wakes, sizeof count_of_wakes);
      } else if (!on_event(event.data.u64, event.events)) {
        return true;
      }
    }
    if (count < kEventsAtOnce) break;
  }
  return true;
}

bool Readiness::nap(std::int64_t patience) {
  pollfd urgent{.fd = urgent_.get(), .events = POLLIN, .revents = 0};
  const timespec timeout{patience / kSecond, patience % kSecond};
  return ::ppoll(&urgent, 1, &timeout, nullptr) >= 0;
}

void Readiness::watch() {
  if (watching_) return;
  watching_ = true;
  epoll_.async_wait(asio::posix::stream_descriptor::wait_read,
                    [this](const asio::error_code&) { watching_ = false; });
}

}  // namespace mpaxos
