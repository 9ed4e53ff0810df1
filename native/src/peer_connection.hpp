// The connection between two replicas; and the dialer that makes it, at the one with the higher id.
#pragma once

#include <optional>

#include "connection.hpp"

namespace mpaxos {

class PeerConnection : public Connection {
 public:
  // `expected`: whom we dialed; nothing when the other side dialed us.
  PeerConnection(Plane& plane, Socket socket, std::optional<std::uint16_t> expected);

  void greet();
  void send(std::string_view control,
            const std::vector<std::pair<std::uint64_t, BatchPtr>>& values);
  std::uint16_t peer() const { return peer_; }

 protected:
  std::size_t consume(std::string_view data) override;
  void on_closed() override;
  std::size_t queue_limit() const override;

 private:
  void hello(std::string_view payload);
  void message(const FrameHeader& header, std::string_view payload);

  std::optional<std::uint16_t> expected_;
  std::uint16_t peer_ = 0;
};

// Connects to one replica again and again until the plane is closed.
class Dialer : public std::enable_shared_from_this<Dialer> {
 public:
  Dialer(Plane& plane, std::uint16_t peer, std::string host, std::uint16_t port);
  void start();
  // The other side answered: the next attempt need not wait long.
  void reached();
  // The connection it made is gone: make another.
  void lost();
  void stop();

 private:
  void resolve();
  void connect(const asio::ip::tcp::resolver::results_type& endpoints);
  void failed(const std::string& why);
  void again();

  Plane& plane_;
  std::uint16_t peer_;
  std::string host_;
  std::string port_;
  asio::ip::tcp::resolver resolver_;
  asio::steady_timer timer_;
  std::shared_ptr<Socket> socket_;
  std::chrono::milliseconds backoff_;
  bool told_ = false;
  bool stopped_ = false;
};

}  // namespace mpaxos
