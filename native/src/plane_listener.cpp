#include <fcntl.h>

#include "client_connection.hpp"
#include "error.hpp"
#include "jpaxos_connection.hpp"
#include "plane.hpp"

namespace mpaxos {

using asio::ip::tcp;

namespace {

constexpr auto kAcceptPause = std::chrono::milliseconds(100);

const char* users_of(Port port) {
  switch (port) {
    case Port::kPeer: return "peers";
    case Port::kClient: return "clients";
    case Port::kJpaxos: return "JPaxos clients";
  }
  return "nobody";
}

// An empty host means all IPv4 addresses.
tcp::endpoint endpoint_of(asio::io_context& io, const Address& address, asio::error_code& error) {
  if (address.host.empty()) return {tcp::v4(), address.port};
  const auto literal = asio::ip::make_address(address.host, error);
  if (!error) return {literal, address.port};
  tcp::resolver resolver(io);
  const auto results = resolver.resolve(address.host, std::to_string(address.port),
                                        tcp::resolver::passive, error);
  return error ? tcp::endpoint() : results.begin()->endpoint();
}

}  // namespace

Listener::Listener(Hub& hub, PeerLinks& links, const Address& address, Port port,
                   std::size_t limit)
    : hub_(hub),
      links_(links),
      port_(port),
      limit_(limit),
      acceptor_(hub.io()),
      timer_(hub.io()),
      address_(address.text()) {
  asio::error_code error;
  const auto endpoint = endpoint_of(hub.io(), address, error);
  if (!error) acceptor_.open(endpoint.protocol(), error);
  if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(tcp::acceptor::max_listen_connections, error);
  if (error) {
    throw Error(ErrorKind::kConfig, "cannot listen on " + address_ + " for " + users_of(port_) +
                                        ": " + error.message());
  }
  // A child process must not keep the port of a replica that has stopped.
  ::fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
  bound_port_ = acceptor_.local_endpoint().port();
  address_ = Address{address.host, bound_port_}.text();
}

void Listener::start() { accept(); }

void Listener::stop() {
  stopped_ = true;
  timer_.cancel();
  asio::error_code ignored;
  acceptor_.close(ignored);
}

void Listener::accept() {
  acceptor_.async_accept([this](const asio::error_code& error, tcp::socket socket) {
    on_accept(error, std::move(socket));
  });
}

void Listener::on_accept(const asio::error_code& error, tcp::socket socket) {
  if (stopped_ || error == asio::error::operation_aborted) return;
  if (error && error != asio::error::connection_aborted) return pause(error);
  if (!error) {
    auto open = hub_.open_connections(port_);
    if (port_ != Port::kPeer) {
      open = hub_.open_connections(Port::kClient) + hub_.open_connections(Port::kJpaxos);
    }
    if (open >= limit_) {
      ++hub_.counters().closed[static_cast<std::size_t>(Reason::kLimit)];
      // Told when it begins, not for each connection that is turned away.
      if (!told_) {
        hub_.notice(port_, address_, "new connections are closed: there are " +
                                         std::to_string(open) + " already");
      }
      told_ = true;
      asio::error_code ignored;
      socket.close(ignored);
    } else {
      told_ = false;
      switch (port_) {
        case Port::kPeer:
          std::make_shared<PeerConnection>(hub_, links_, std::move(socket), nullptr)->start();
          break;
        case Port::kClient:
          std::make_shared<ClientConnection>(hub_, std::move(socket))->start();
          break;
        case Port::kJpaxos:
          std::make_shared<JpaxosConnection>(hub_, std::move(socket))->start();
          break;
      }
    }
  }
  accept();
}

// Out of file descriptors or memory: trying again at once would only burn the processor.
void Listener::pause(const asio::error_code& error) {
  if (!told_) hub_.notice(port_, address_, "cannot accept connections: " + error.message());
  told_ = true;
  timer_.expires_after(kAcceptPause);
  timer_.async_wait([this](const asio::error_code& cancelled) {
    if (!cancelled && !stopped_) accept();
  });
}

}  // namespace mpaxos
