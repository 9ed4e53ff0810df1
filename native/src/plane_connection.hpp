// One TCP connection: reading, writing, closing. What the bytes mean is its subclasses' business.
#pragma once

#include <asio/ip/tcp.hpp>
#include <memory>
#include <string>
#include <string_view>

#include "plane_buffers.hpp"
#include "plane_readiness.hpp"
#include "plane_types.hpp"
#include "replies.hpp"

namespace mpaxos {

class Hub;

// Lives as long as the hub's registry or an operation in flight holds it. After close() every
// call on it does nothing, so late replies and handlers need not ask.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Hub& hub, asio::ip::tcp::socket socket, Port port);
  virtual ~Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Called once, right after construction: registers with the hub and begins to read.
  virtual void start();
  // Writes what is queued, as far as the socket takes it; the rest when it is writable.
  void write();
  // Closes at once. A text makes it a notice: the other side did something wrong.
  void close(Reason reason, const std::string& text = "");
  // Reads again after the hub had parked this connection.
  void resume();
  // It can be read or written, as epoll says.
  void on_ready(std::uint32_t events);
  // Closes what has been incomplete for too long; `excused` is time since the last sweep in which
  // this replica did not read at all.
  void sweep(std::int64_t now, std::int64_t excused);
  // Whether a notice about it would tell anything new.
  virtual bool worth_a_notice(const std::string&) { return true; }

  Port port() const { return port_; }
  const std::string& address() const { return address_; }
  std::uint64_t id() const { return id_; }
  bool closed() const { return closed_; }

 protected:
  // Handles all complete messages at the front of `data`, returns their size and sets wanted_ if
  // it knows the size of the next one. Throws Violation.
  virtual std::size_t take(std::string_view data) = 0;
  // Makes the queue fit to be written: completes an open frame.
  virtual void finish_queue() {}
  // Not read while too many requests wait.
  virtual bool brings_requests() const { return false; }
  // Queues a last word to the other side; false where there is nothing to say it with.
  virtual bool last_word(const std::string&) { return false; }
  // Called once when it stops to serve: leave all maps.
  virtual void gone() {}

  // Tells the other side why, and closes once that is written and read.
  void part(Reason reason, const std::string& text, bool notice);
  void mark_dirty();
  // `bytes` of what take() was given, for longer than that.
  SharedBytes retain(std::string_view bytes) { return in_.retain(bytes); }

  Hub& hub_;
  OutQueue out_;
  std::size_t wanted_ = 0;
  bool greeted_ = false;  // its handshake is complete
  bool parting_ = false;  // only waits for its last word to be written and read

 private:
  void read();
  void on_bytes(std::size_t size);
  void on_data();
  void await_writable();
  void show_interest();
  void leave();

  Descriptor socket_;
  ReceiveBuffer in_;
  const Port port_;
  std::string address_;
  std::uint64_t id_;
  std::int64_t began_;            // ns; start of the connection, or of its parting
  std::int64_t frame_began_ = 0;  // ns; of the incomplete frame at the front, 0: none
  bool dirty_ = false;
  bool awaiting_writable_ = false;
  bool parked_ = false;
  bool left_ = false;
  bool closed_ = false;
};

// A connection that speaks frames.
class FramedConnection : public Connection {
 public:
  using Connection::Connection;

 protected:
  // Largest payload allowed for this kind now; throws Violation when the kind is not allowed. Asked
  // before the payload is waited for.
  virtual std::size_t frame_limit(std::uint8_t kind) const = 0;
  // A whole, verified frame; the first `covered` bytes of the payload were under its checksum.
  virtual void on_frame(std::uint8_t kind, std::string_view payload, std::size_t covered) = 0;
  std::size_t take(std::string_view data) override;
};

// A connection of a client, whatever it speaks: has a session and gets replies.
class SessionConnection {
 public:
  virtual ~SessionConnection() = default;
  virtual void deliver(const Reply& reply) = 0;
  // The session it asked for is open; 0: it could not be opened.
  virtual void opened(std::uint64_t session) = 0;
  // A newer connection speaks for its session now.
  virtual void replaced() = 0;
};

}  // namespace mpaxos
