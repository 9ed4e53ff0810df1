// What all connections of a plane share: reading into one buffer, writing from a queue, closing.
#pragma once

#include <asio.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>

#include "batch.hpp"
#include "replies.hpp"
#include "wire.hpp"

namespace mpaxos {

class Plane;
using Clock = std::chrono::steady_clock;
using Socket = asio::ip::tcp::socket;

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Plane& plane, Socket socket, const char* port);
  virtual ~Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Begins to read; called once, when the connection is in a shared_ptr.
  void start();
  // Reads on after it was parked because requests pile up.
  void resume();
  // Writes what is queued; the rest when the socket takes more.
  void flush();
  // Closes without a word, for a reason that is counted and told when `text` is not empty.
  void close(const char* reason, const std::string& text);
  // Closes once everything queued is written.
  void close_after_flush();

  bool closed() const { return closed_; }
  bool ready() const { return ready_; }
  const char* port() const { return port_; }
  std::string address() const { return address_; }
  std::size_t queued() const { return queued_; }
  // Since when it owes the rest of a frame, or its first one.
  bool overdue(Clock::time_point now, double handshake_seconds, double frame_seconds) const;

  // Replies of requests that came over this connection.
  virtual void reply(const Reply&) {}
  virtual void opened(std::uint64_t /*session*/) {}

 protected:
  // Takes a complete message from the front of `data`; returns its size, 0 when there is none.
  // Sets want() to the size of the next one when it is known. Throws BadInput, Error(kWire).
  virtual std::size_t consume(std::string_view data) = 0;
  virtual bool pausable() const { return false; }
  // Called before queued bytes are written.
  virtual void before_flush() {}
  virtual void on_closed() {}
  virtual std::size_t queue_limit() const = 0;

  void want(std::size_t bytes) { want_ = bytes; }
  void became_ready() { ready_ = true; }
  void queue(std::string bytes);
  void queue(const BatchPtr& batch);
  // Marks that flush() has something to do.
  void dirty();

  Plane& plane_;

 private:
  struct Segment {
    std::string bytes;
    BatchPtr batch;
    std::string_view view() const { return batch ? batch->bytes() : std::string_view(bytes); }
  };

  void read();
  void received(const asio::error_code& error, std::size_t count);
  void process();
  void make_room();
  void write_queue();
  void wait_writable();

  Socket socket_;
  const char* port_;
  std::string address_;
  Clock::time_point since_;  // of being accepted, or of the first byte of an incomplete frame
  std::string in_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t want_ = 0;
  std::deque<Segment> out_;
  std::size_t offset_ = 0;  // of the first segment, already written
  std::size_t queued_ = 0;
  bool partial_ = false;
  bool ready_ = false;
  bool closed_ = false;
  bool parked_ = false;
  bool waiting_ = false;
  bool dirty_ = false;
  bool closing_ = false;
};

using ConnectionPtr = std::shared_ptr<Connection>;

}  // namespace mpaxos
