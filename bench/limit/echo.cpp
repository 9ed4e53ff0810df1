// The limit of the sockets: one thread, epoll, one read and one write per request.
//
//   echo PORT
#include <array>
#include <memory>
#include <unordered_map>

#include "common.hpp"

namespace {

struct Client {
  int fd;
  std::string out;  // what its socket did not take
};

}  // namespace

int main(int count, char** words) {
  if (count != 2) return std::fputs("usage: echo PORT\n", stderr), 2;
  limit::start();
  const int listener = limit::listen_on(std::atoi(words[1]));
  const int epoll = epoll_create1(0);
  std::unordered_map<Client*, std::unique_ptr<Client>> clients;
  limit::watch(epoll, listener, EPOLLIN, nullptr);
  limit::ready();
  std::string buffer(256 << 10, '\0');
  std::array<epoll_event, 512> events;
  while (true) {
    const int found = epoll_wait(epoll, events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < found; ++i) {
      const auto& event = events[static_cast<std::size_t>(i)];
      auto* client = static_cast<Client*>(event.data.ptr);
      if (client == nullptr) {
        const int fd = limit::accept_from(listener);
        if (fd < 0) continue;
        auto made = std::make_unique<Client>(Client{fd, {}});
        limit::watch(epoll, fd, EPOLLIN, made.get());
        clients.emplace(made.get(), std::move(made));
        continue;
      }
      bool alive = true;
      const bool waiting = !client->out.empty();
      if (waiting) {  // only then is it read again: no queue grows
        alive = limit::write_out(client->fd, client->out);
      } else {
        const auto got = recv(client->fd, buffer.data(), buffer.size(), 0);
        alive = got > 0 || (got < 0 && errno == EAGAIN);
        if (got > 0) {
          const auto sent = send(client->fd, buffer.data(), static_cast<std::size_t>(got),
                                 MSG_NOSIGNAL);
          if (sent < 0 && errno != EAGAIN) alive = false;
          const auto taken = static_cast<std::size_t>(sent < 0 ? 0 : sent);
          client->out.append(buffer, taken, static_cast<std::size_t>(got) - taken);
        }
      }
      if (!alive) {
        close(client->fd);
        clients.erase(client);
      } else if (waiting != !client->out.empty()) {
        limit::watch(epoll, client->fd, client->out.empty() ? EPOLLIN : EPOLLOUT, client,
                     EPOLL_CTL_MOD);
      }
    }
  }
}
