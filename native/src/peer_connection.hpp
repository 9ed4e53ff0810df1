// The peer port: greetings and messages between replicas, and the links that keep them connected.
#pragma once

#include <asio/ip/tcp.hpp>
#include <asio/steady_timer.hpp>
#include <map>
#include <memory>

#include "plane_connection.hpp"

namespace mpaxos {

class PeerLink;
class PeerLinks;

class PeerConnection final : public FramedConnection {
 public:
  // `link` is the peer that was dialled; null when the other side dialled.
  PeerConnection(Hub& hub, PeerLinks& links, asio::ip::tcp::socket socket,
                 std::shared_ptr<PeerLink> link);

  void start() override;
  bool worth_a_notice(const std::string& text) override;
  // Drops the message, and counts it, when too much is queued.
  void send(std::string_view control, const TimedBatches& values, bool vote);
  // The same, of a message that carries a chunk.
  void send_chunk(std::string_view control, const ChunkPtr& chunk);

 protected:
  std::size_t frame_limit(std::uint8_t kind) const override;
  void on_frame(std::uint8_t kind, std::string_view payload, std::size_t covered) override;
  void gone() override;

 private:
  void send_hello(std::uint16_t receiver);
  void on_hello(const PeerHello& hello);
  void check_hello(const PeerHello& hello) const;
  void check_births(const PeerHello& hello);
  bool has_room(std::size_t size);
  // It is an accept that nobody needs: its batch is not even looked at.
  bool is_spared(std::string_view control, std::size_t batches);
  void on_message(std::uint8_t kind, std::string_view payload, std::size_t covered);
  PeerLinks& links_;
  std::shared_ptr<PeerLink> link_;
  const bool dialled_;
};

// One other replica: dials it if that is our part, tells when it comes and goes.
class PeerLink : public std::enable_shared_from_this<PeerLink> {
 public:
  PeerLink(Hub& hub, PeerLinks& links, std::uint16_t peer, Address address);

  void start();
  void stop();
  void up(std::shared_ptr<PeerConnection> connection);
  // A connection of this link ended, whether it was up or not.
  void lost(const PeerConnection* connection, bool dialled);
  bool worth_a_notice(const std::string& text);
  bool dialling() const { return dials_ && !current_; }
  std::uint16_t peer() const { return peer_; }
  const std::shared_ptr<PeerConnection>& current() const { return current_; }

 private:
  void dial();
  void resolve(std::uint64_t attempt);
  void connect(std::uint64_t attempt, const std::vector<asio::ip::tcp::endpoint>& endpoints);
  void connected(std::uint64_t attempt, const asio::error_code& error);
  void failed(const std::string& why);
  void retry();

  Hub& hub_;
  PeerLinks& links_;
  const std::uint16_t peer_;
  const Address address_;
  const bool dials_;
  asio::ip::tcp::resolver resolver_;
  asio::ip::tcp::socket socket_;
  asio::steady_timer timer_;
  std::shared_ptr<PeerConnection> current_;
  std::string told_;  // last notice since it was up: told once
  std::int64_t backoff_;  // ns
  std::uint64_t attempt_ = 0;
  bool stopped_ = false;
};

class PeerLinks {
 public:
  explicit PeerLinks(Hub& hub);
  void start();
  void stop();
  std::shared_ptr<PeerLink> find(std::uint16_t peer) const;
  // Dropped, and counted, when `peer` is not connected.
  void send(std::uint16_t peer, std::string_view control, const TimedBatches& values, bool vote);
  void send_chunk(std::uint16_t peer, std::string_view control, const ChunkPtr& chunk);
  // Some peer that is ours to dial is not connected.
  bool dialling() const;

 private:
  Hub& hub_;
  std::map<std::uint16_t, std::shared_ptr<PeerLink>> links_;
};

}  // namespace mpaxos
