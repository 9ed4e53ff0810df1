// A connection of a client written for JPaxos or mPaxosSM (docs/wire.md, "JPaxos client port").
#pragma once

#include "connection.hpp"

namespace mpaxos {

class JpaxosConnection : public Connection {
 public:
  JpaxosConnection(Plane& plane, Socket socket);

  void reply(const Reply& reply) override;
  void opened(std::uint64_t session) override;

 protected:
  std::size_t consume(std::string_view data) override;
  bool pausable() const override { return session_ != 0; }
  void on_closed() override;
  std::size_t queue_limit() const override;

 private:
  std::size_t identify(std::string_view data);
  std::size_t request(std::string_view data);
  void answer(std::uint32_t result, std::string_view bytes);
  void answer_ok(std::uint64_t sequence, std::string_view value);

  std::uint64_t session_ = 0;
  std::uint64_t token_ = 0;
};

}  // namespace mpaxos
