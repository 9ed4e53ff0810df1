// The limit of any system of three replicas: what arrived in a turn is forwarded as one batch to
// two others, and answered (echoed) when one of them has acknowledged it. No log, no state, no
// checks; nothing that replicates and waits for a majority can be faster with these sockets.
//
//   forward follow PORT
//   forward lead PORT FOLLOWER-PORT FOLLOWER-PORT
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "common.hpp"

namespace {

struct BatchHeader {
  std::uint64_t number;
  std::uint64_t length;
};

// Reads batches to their end and acknowledges each with its number.
int follow(int port) {
  const int listener = limit::listen_on(port);
  limit::ready();
  int fd = -1;
  while (fd < 0) {
    fd = limit::accept_from(listener);
    if (fd < 0) usleep(1000);
  }
  std::string buffer(1 << 20, '\0');
  std::string left, acknowledgements;
  const int epoll = epoll_create1(0);
  limit::watch(epoll, fd, EPOLLIN, nullptr);
  while (true) {
    epoll_event event{};
    epoll_wait(epoll, &event, 1, -1);
    const auto got = recv(fd, buffer.data(), buffer.size(), 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) return 0;
    if (got < 0) continue;
    left.append(buffer, 0, static_cast<std::size_t>(got));
    std::size_t at = 0;
    while (left.size() - at >= sizeof(BatchHeader)) {
      BatchHeader header;
      std::memcpy(&header, left.data() + at, sizeof header);
      if (left.size() - at < sizeof header + header.length) break;
      at += sizeof header + header.length;
      acknowledgements.append(reinterpret_cast<const char*>(&header.number), sizeof header.number);
    }
    left.erase(0, at);
    while (!acknowledgements.empty()) {
      if (!limit::write_out(fd, acknowledgements)) return 0;
    }
  }
}

struct Peer {
  int fd = -1;
  bool follower = false;
  std::string in;   // follower: the beginning of an acknowledgement
  std::string out;
  bool watching = false;
};

struct Part {
  Peer* client;
  std::size_t length;
};

struct Batch {
  std::vector<Part> parts;
  std::string bytes;
};

class Leader {
 public:
  Leader(int port, const std::vector<int>& followers) : listener_(limit::listen_on(port)) {
    epoll_ = epoll_create1(0);
    limit::watch(epoll_, listener_, EPOLLIN, nullptr);
    for (const int follower : followers) add(limit::connect_to(follower), true);
    for (auto& [peer, owner] : peers_) followers_.push_back(peer);
    limit::ready();
  }

  void run() {
    std::array<epoll_event, 512> events;
    while (true) {
      const int count = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), -1);
      for (int i = 0; i < count; ++i) on_event(events[static_cast<std::size_t>(i)]);
      if (!batch_.parts.empty()) forward();
      for (auto* peer : dead_) remove(peer);
      dead_.clear();
    }
  }

 private:
  void add(int fd, bool follower) {
    auto made = std::make_unique<Peer>();
    made->fd = fd;
    made->follower = follower;
    limit::watch(epoll_, fd, EPOLLIN, made.get());
    peers_.emplace(made.get(), std::move(made));
  }

  void on_event(const epoll_event& event) {
    auto* peer = static_cast<Peer*>(event.data.ptr);
    if (peer == nullptr) {
      const int fd = limit::accept_from(listener_);
      if (fd >= 0) add(fd, false);
      return;
    }
    if (peer->fd < 0) return;
    if ((event.events & EPOLLOUT) != 0) flush(peer);
    if ((event.events & ~EPOLLOUT) == 0 || peer->fd < 0) return;
    const auto got = recv(peer->fd, buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) return bury(peer);
    const auto length = static_cast<std::size_t>(got);
    if (!peer->follower) {
      batch_.parts.push_back({peer, length});
      batch_.bytes.append(buffer_, 0, length);
      return;
    }
    peer->in.append(buffer_, 0, length);
    std::size_t at = 0;
    for (; peer->in.size() - at >= sizeof(std::uint64_t); at += sizeof(std::uint64_t)) {
      std::uint64_t number = 0;
      std::memcpy(&number, peer->in.data() + at, sizeof number);
      answer_upto(number);
    }
    peer->in.erase(0, at);
  }

  void forward() {
    const BatchHeader header{first_ + waiting_.size(), batch_.bytes.size()};
    for (auto* follower : followers_) {
      follower->out.append(reinterpret_cast<const char*>(&header), sizeof header);
      follower->out.append(batch_.bytes);
      flush(follower);
    }
    waiting_.push_back(std::move(batch_));
    batch_ = {};
  }

  // Acknowledgements come in order; the second one of a batch finds it answered.
  void answer_upto(std::uint64_t number) {
    for (; !waiting_.empty() && first_ <= number; ++first_) {
      std::size_t at = 0;
      for (const auto& part : waiting_.front().parts) {
        if (part.client->fd >= 0) {
          part.client->out.append(waiting_.front().bytes, at, part.length);
          flush(part.client);
        }
        at += part.length;
      }
      waiting_.pop_front();
    }
  }

  void flush(Peer* peer) {
    if (!limit::write_out(peer->fd, peer->out)) return bury(peer);
    const bool blocked = !peer->out.empty();
    if (blocked == peer->watching) return;
    peer->watching = blocked;
    const std::uint32_t events = EPOLLIN | (blocked ? EPOLLOUT : 0U);
    limit::watch(epoll_, peer->fd, events, peer, EPOLL_CTL_MOD);
  }

  void bury(Peer* peer) {
    if (peer->follower) std::exit(0);
    close(peer->fd);
    peer->fd = -1;
    dead_.push_back(peer);
  }

  // Batches on their way may still name it: it goes when none do.
  void remove(Peer* peer) {
    for (const auto& batch : waiting_) {
      for (const auto& part : batch.parts) {
        if (part.client == peer) return;  // a few bytes for the rest of the run
      }
    }
    peers_.erase(peer);
  }

  int listener_;
  int epoll_ = -1;
  std::string buffer_ = std::string(256 << 10, '\0');
  std::unordered_map<Peer*, std::unique_ptr<Peer>> peers_;
  std::vector<Peer*> followers_;
  std::vector<Peer*> dead_;
  Batch batch_;
  std::deque<Batch> waiting_;
  std::uint64_t first_ = 1;  // number of the first in `waiting_`
};

}  // namespace

int main(int count, char** words) {
  limit::start();
  const std::string what = count > 2 ? words[1] : "";
  if (what == "follow") return follow(std::atoi(words[2]));
  if (what == "lead" && count == 5) {
    Leader(std::atoi(words[2]), {std::atoi(words[3]), std::atoi(words[4])}).run();
  }
  std::fputs("usage: forward follow PORT | forward lead PORT PORT PORT\n", stderr);
  return 2;
}
