// The client port: sessions, requests and replies in frames, admin requests. See docs/wire.md.
#pragma once

#include "plane_connection.hpp"

namespace mpaxos {

class ClientConnection final : public FramedConnection, public SessionConnection {
 public:
  ClientConnection(Hub& hub, asio::ip::tcp::socket socket);

  void deliver(const Reply& reply) override;
  void opened(std::uint64_t session) override;
  void replaced() override;
  // The answer to an admin request, in the order of the requests.
  void answer(std::string_view data);

 protected:
  std::size_t frame_limit(std::uint8_t kind) const override;
  void on_frame(std::uint8_t kind, std::string_view payload, std::size_t covered) override;
  void finish_queue() override;
  bool last_word(const std::string& text) override;
  bool brings_requests() const override { return session_ != 0; }
  void gone() override;

 private:
  void on_hello(const ClientHello& hello);
  void on_requests(std::string_view payload);
  void on_admin(std::string_view payload);
  void send_frame(FrameKind kind, std::string_view payload);
  void send_welcome(std::uint64_t session);
  std::shared_ptr<ClientConnection> self();

  std::uint64_t session_ = 0;
  std::uint64_t token_ = 0;  // of the opening under way
  int admins_ = 0;           // requests not yet answered
};

}  // namespace mpaxos
