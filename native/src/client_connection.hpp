// A connection on the client port, speaking the native protocol.
#pragma once

#include "connection.hpp"

namespace mpaxos {

class ClientConnection : public Connection {
 public:
  ClientConnection(Plane& plane, Socket socket);

  void reply(const Reply& reply) override;
  void opened(std::uint64_t session) override;
  // Says why, then closes.
  void bye(std::string_view reason);
  void admin_reply(std::string_view json);

 protected:
  std::size_t consume(std::string_view data) override;
  bool pausable() const override { return session_ != 0; }
  void before_flush() override;
  void on_closed() override;
  std::size_t queue_limit() const override;

 private:
  void hello(std::string_view payload);
  void welcome();
  void requests(std::string_view payload);

  std::uint64_t session_ = 0;
  std::uint64_t token_ = 0;
  std::uint64_t admin_token_ = 0;
  std::string replies_;  // a REPLIES frame in the making, room for its header at the front
};

}  // namespace mpaxos
