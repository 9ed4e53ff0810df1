// All sockets of one replica, served by the thread that calls poll().
#pragma once

#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/steady_timer.hpp>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "hand_over.hpp"
#include "peer_connection.hpp"
#include "plane_hub.hpp"
#include "plane_steady.hpp"
#include "plane_types.hpp"
#include "replies.hpp"

namespace mpaxos {

// One listening socket.
class Listener {
 public:
  // Binds; throws Error(kConfig) naming address, purpose and reason.
  Listener(Hub& hub, PeerLinks& links, const Address& address, Port port, std::size_t limit);
  void start();
  void stop();
  std::uint16_t bound_port() const { return bound_port_; }
  int descriptor() { return acceptor_.native_handle(); }

 private:
  void accept();
  void on_accept(const asio::error_code& error, asio::ip::tcp::socket socket);
  void pause(const asio::error_code& error);
  Hub& hub_;
  PeerLinks& links_;
  const Port port_;
  const std::size_t limit_;
  asio::ip::tcp::acceptor acceptor_;
  asio::steady_timer timer_;
  std::string address_;
  std::uint16_t bound_port_ = 0;
  bool told_ = false;
  bool stopped_ = false;
};

class Plane {
 public:
  explicit Plane(PlaneOptions options);
  ~Plane();
  Plane(const Plane&) = delete;
  Plane& operator=(const Plane&) = delete;

  std::tuple<int, int, int> ports() const;
  // See _native.pyi for the meaning of all of these.
  std::pair<std::int64_t, std::vector<Event>> poll(std::int64_t until, std::int64_t room,
                                                   Wanted wanted);
  void send(std::uint16_t peer, std::string_view control, const TimedBatches& values, bool vote);
  void send_chunk(std::uint16_t peer, std::string_view control, const ChunkPtr& chunk) {
    links_.send_chunk(peer, control, chunk);
  }
  void deliver(const ReplySet& replies) { hub_.deliver(replies); }
  void answer(std::uint64_t token, std::string_view data);
  void flush() { hub_.flush(); }
  void wake();
  std::vector<std::pair<std::string, std::uint64_t>> counters();
  void set_identity(const std::string& cluster_name, const std::string& machine);
  void introduce(Birth birth, std::map<std::uint16_t, Birth> met);
  void close();

  // A machine with a thread of its own: poll() returns when it has done something.
  void serve(HandOver& hand_over);
  // From now on ordinary turns are taken within poll() whenever `steady` has a mandate. All three
  // outlive this; no engine: what is decided is handed over to the machine's thread.
  void attach(Steady& steady, FilePool& pool, Engine* engine);

 private:
  bool wait(std::int64_t patience);
  bool take_ordinary(std::int64_t& room);
  bool take_results(std::int64_t& room);
  void after_ordinary(std::int64_t& room);
  bool has_results() const { return hand_over_ != nullptr && hand_over_->has_results(); }
  void sweep_later();
  void serve_asio();
  asio::io_context io_;  // first: everything below refers to it
  Hub hub_;
  PeerLinks links_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  asio::steady_timer sweeper_;
  std::atomic<bool> woken_{false};
  std::int64_t asio_due_ = 0;
  std::int64_t asio_period_ = 0;  // ns
  bool closed_ = false;
  HandOver* hand_over_ = nullptr;
  std::optional<SteadyRunner> steady_;
};

}  // namespace mpaxos
