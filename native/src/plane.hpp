// All sockets of one replica, served by the one thread that calls poll().
#pragma once

#include <array>
#include <asio.hpp>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "batch.hpp"
#include "connection.hpp"
#include "peer_connection.hpp"
#include "replies.hpp"

namespace mpaxos {

using HostPort = std::pair<std::string, std::uint16_t>;
using Values = std::vector<std::pair<std::uint64_t, BatchPtr>>;

struct PlaneOptions {
  std::uint16_t replica;
  std::array<std::uint8_t, 16> cluster;
  std::uint64_t incarnation;
  std::uint64_t agreement;
  std::map<std::uint16_t, HostPort> peers;
  HostPort listen_peer;
  HostPort listen_client;
  std::optional<HostPort> listen_jpaxos;
  std::uint32_t max_request;
  std::size_t max_batch;
  std::size_t max_pending;
  std::size_t max_connections;
  double handshake_seconds;
  double frame_seconds;
};

enum class EventKind : int {
  kPeerMessage = 1,
  kPeerUp = 2,
  kPeerDown = 3,
  kBatch = 4,
  kReads = 5,
  kAdmin = 6,
  kNotice = 7,
};

struct PlaneEvent {
  explicit PlaneEvent(EventKind event, std::uint64_t about = 0) : kind(event), number(about) {}
  EventKind kind;
  std::uint64_t number;  // peer, or token of an admin request
  std::string text;          // control message, admin request, or port of a notice
  std::string address;       // of a notice
  std::string reason;        // of a notice
  Values values;
  BatchPtr batch;
};

class Plane {
 public:
  explicit Plane(PlaneOptions options);
  ~Plane();
  Plane(const Plane&) = delete;
  Plane& operator=(const Plane&) = delete;

  // -- for the loop ------------------------------------------------------------------------
  std::int64_t poll(std::int64_t until, std::size_t room, bool quorum,
                    std::vector<PlaneEvent>& events);
  void send(std::uint16_t peer, std::string_view control, const Values& values);
  void deliver(const ReplySet& replies);
  void answer(std::uint64_t token, std::string_view json);
  void flush();
  void wake();  // the only call that is safe from other threads
  void close();
  std::array<std::uint16_t, 3> ports() const;
  std::map<std::string, std::uint64_t> counters() const;
  void set_identity(std::string cluster, std::string machine);

  // -- for connections ---------------------------------------------------------------------
  const PlaneOptions& options() const { return options_; }
  asio::io_context& context() { return context_; }
  std::vector<asio::const_buffer>& gather() { return gather_; }
  const std::string& cluster_name() const { return cluster_name_; }
  const std::string& machine_name() const { return machine_name_; }
  std::uint32_t client_frame_limit() const { return options_.max_request + (1U << 20); }
  bool refusing() const { return refusing_; }
  bool full() const { return pending_bytes_ > options_.max_pending; }
  void park(const ConnectionPtr& connection) { parked_.push_back(connection); }
  void mark_dirty(const ConnectionPtr& connection) { dirty_.push_back(connection); }
  void count_received(std::size_t bytes) { received_ += bytes; }
  void count_sent(std::size_t bytes) { sent_ += bytes; }
  void count(const char* name) { ++counters_[name]; }
  void notice(const char* port, const std::string& address, const std::string& reason);
  void forget(const ConnectionPtr& connection, const char* reason, const std::string& text);

  std::uint64_t open_session(const ConnectionPtr& connection, std::uint32_t window);
  void attach(std::uint64_t session, const ConnectionPtr& connection);
  void detach(std::uint64_t session, const Connection* connection);
  void drop_token(std::uint64_t token) { tokens_.erase(token); }
  void take(std::string_view entries, std::uint32_t count, bool queries);
  void take(const EntryHeader& entry, std::string_view payload);

  std::uint64_t register_admin(const ConnectionPtr& connection);
  void drop_admin(std::uint64_t token) { admins_.erase(token); }
  void admin(std::uint64_t token, std::string_view json);

  bool is_peer(std::uint16_t peer) const { return options_.peers.contains(peer); }
  void peer_up(const std::shared_ptr<PeerConnection>& connection);
  void peer_down(const PeerConnection& connection);
  void peer_message(std::uint16_t peer, std::string_view control, Values values);
  void dialed(std::uint16_t peer, Socket socket);
  void redial(std::uint16_t peer);

 private:
  using Acceptor = asio::ip::tcp::acceptor;

  Acceptor listen(const HostPort& address, const char* who);
  template <typename C>
  void accept(Acceptor& acceptor);
  template <typename C>
  void admit(Socket socket);
  void sweep();
  bool something(std::size_t room) const;
  void collect(std::size_t room, std::vector<PlaneEvent>& events);
  void unpark();
  void seal_if_large();
  std::uint64_t random();

  PlaneOptions options_;
  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  asio::steady_timer sweep_timer_;
  std::optional<Acceptor> peer_acceptor_;
  std::optional<Acceptor> client_acceptor_;
  std::optional<Acceptor> jpaxos_acceptor_;
  std::string cluster_name_;
  std::string machine_name_;

  std::unordered_set<ConnectionPtr> connections_;
  std::unordered_map<std::uint64_t, ConnectionPtr> sessions_;
  std::unordered_map<std::uint64_t, ConnectionPtr> tokens_;
  std::unordered_map<std::uint64_t, ConnectionPtr> admins_;
  std::map<std::uint16_t, std::shared_ptr<PeerConnection>> peers_;
  std::map<std::uint16_t, std::shared_ptr<Dialer>> dialers_;
  std::vector<ConnectionPtr> parked_;
  std::vector<ConnectionPtr> dirty_;
  std::vector<asio::const_buffer> gather_;

  std::vector<PlaneEvent> events_;
  std::size_t notices_ = 0;
  BatchBuilder commands_;
  BatchBuilder reads_;
  std::vector<BatchPtr> sealed_;
  std::size_t pending_bytes_ = 0;
  std::uint64_t batch_number_ = 0;
  std::uint64_t read_number_ = 0;
  std::atomic<bool> woken_ = false;
  bool refusing_ = false;
  bool closed_ = false;

  std::map<std::string, std::uint64_t> counters_;
  std::uint64_t received_ = 0;
  std::uint64_t sent_ = 0;
};

}  // namespace mpaxos
