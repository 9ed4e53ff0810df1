// The client protocol of the originals, JPaxos and mPaxosSM: one request at a time, big-endian.
// See docs/wire.md.
#pragma once

#include "plane_connection.hpp"

namespace mpaxos {

class JpaxosConnection final : public Connection, public SessionConnection {
 public:
  JpaxosConnection(Hub& hub, asio::ip::tcp::socket socket);

  void deliver(const Reply& reply) override;
  void opened(std::uint64_t session) override;
  void replaced() override;

 protected:
  std::size_t take(std::string_view data) override;
  bool brings_requests() const override { return true; }
  void gone() override;

 private:
  enum class State { kNew, kOpening, kReady };
  struct Request {
    std::int32_t type;
    std::int64_t client;
    std::int32_t sequence;
    std::int32_t length;
  };

  std::size_t take_greeting(std::string_view data);
  std::size_t take_request(std::string_view data);
  void on_request(const Request& request, std::string_view payload);
  void send(std::int32_t result, std::string_view payload);
  void send_ok(std::int32_t sequence, std::string_view value);
  std::shared_ptr<JpaxosConnection> self();

  State state_ = State::kNew;
  std::uint64_t session_ = 0;
  std::uint64_t token_ = 0;
  std::int64_t awaited_ = -1;  // sequence of the request that is being served; -1: none
};

// The text of a FAILED reply, MessagePack [type, message], as "type: message".
std::string failure_text(std::string_view payload);

}  // namespace mpaxos
