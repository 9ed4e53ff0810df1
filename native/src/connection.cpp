#include "connection.hpp"

#include <cstring>

#include "error.hpp"
#include "plane.hpp"

namespace mpaxos {
namespace {

constexpr std::size_t kFirstBuffer = 8 << 10;
constexpr std::size_t kLargeBuffer = 256 << 10;  // given back when it is empty
constexpr std::size_t kGather = 64;              // segments written by one system call

std::string address_of(const Socket& socket) {
  asio::error_code error;
  const auto endpoint = socket.remote_endpoint(error);
  if (error) return "a closed socket";
  return endpoint.address().to_string() + ":" + std::to_string(endpoint.port());
}

}  // namespace

Connection::Connection(Plane& plane, Socket socket, const char* port)
    : plane_(plane),
      socket_(std::move(socket)),
      port_(port),
      address_(address_of(socket_)),
      since_(Clock::now()) {
  asio::error_code ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.set_option(asio::socket_base::keep_alive(true), ignored);
  socket_.non_blocking(true, ignored);
}

void Connection::start() { read(); }

void Connection::resume() {
  if (!parked_ || closed_) return;
  parked_ = false;
  process();
}

bool Connection::overdue(Clock::time_point now, double handshake_seconds,
                         double frame_seconds) const {
  if (closed_ || parked_ || (ready_ && !partial_ && !closing_)) return false;
  const auto limit = ready_ ? frame_seconds : handshake_seconds;
  return now - since_ > std::chrono::duration<double>(limit);
}

// -- reading ---------------------------------------------------------------------------------

void Connection::make_room() {
  if (begin_ == end_) {
    begin_ = end_ = 0;
    if (in_.size() > kLargeBuffer && want_ <= kLargeBuffer) {
      in_.clear();
      in_.shrink_to_fit();
    }
  }
  const auto needed = std::max(want_, end_ - begin_ + 1);
  if (in_.size() - begin_ >= needed && in_.size() > end_) return;
  if (begin_ > 0) {
    std::memmove(in_.data(), in_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (in_.size() < std::max(needed, kFirstBuffer)) {
    // `want_` is within the port's limit; growing by doubling keeps small requests cheap.
    in_.resize(std::max({needed, kFirstBuffer, std::min(in_.size() * 2, kLargeBuffer)}));
  }
}

void Connection::read() {
  make_room();
  socket_.async_read_some(
      asio::buffer(in_.data() + end_, in_.size() - end_),
      [self = shared_from_this()](const asio::error_code& error, std::size_t count) {
        self->received(error, count);
      });
}

void Connection::received(const asio::error_code& error, std::size_t count) {
  if (closed_) return;
  if (error) {
    const bool clean = error == asio::error::eof && begin_ == end_;
    const bool inside = begin_ != end_;
    close(inside ? "truncated" : clean ? "eof" : "reset",
          inside ? "the connection ended inside a message" : "");
    return;
  }
  plane_.count_received(count);
  if (begin_ == end_ && ready_) since_ = Clock::now();
  end_ += count;
  process();
}

void Connection::process() {
  try {
    while (begin_ < end_) {
      if (pausable() && plane_.full()) {
        parked_ = true;
        plane_.park(shared_from_this());
        return;
      }
      const auto taken = consume({in_.data() + begin_, end_ - begin_});
      if (closed_ || closing_) return;
      if (taken == 0) break;
      begin_ += taken;
      want_ = 0;
      since_ = Clock::now();
    }
    partial_ = begin_ != end_;
  } catch (const BadInput& bad) {
    close(bad.reason(), bad.text());
    return;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kWire) throw;
    close("garbage", error.what());
    return;
  }
  read();
}

// -- writing ---------------------------------------------------------------------------------

void Connection::queue(std::string bytes) {
  if (closed_) return;
  queued_ += bytes.size();
  out_.push_back({std::move(bytes), nullptr});
  dirty();
}

void Connection::queue(const BatchPtr& batch) {
  if (closed_) return;
  queued_ += batch->bytes().size();
  out_.push_back({{}, batch});
}

void Connection::dirty() {
  if (dirty_ || closed_) return;
  dirty_ = true;
  plane_.mark_dirty(shared_from_this());
}

void Connection::flush() {
  dirty_ = false;
  if (closed_) return;
  before_flush();
  if (!waiting_) write_queue();
  if (queued_ > queue_limit()) {
    close("slow_reader", "it does not read what it asked for; " + std::to_string(queued_) +
                             " bytes are waiting");
  }
}

void Connection::write_queue() {
  while (!out_.empty()) {
    auto& buffers = plane_.gather();
    buffers.clear();
    for (const auto& segment : out_) {
      if (buffers.size() == kGather) break;
      const auto view = segment.view().substr(buffers.empty() ? offset_ : 0);
      buffers.emplace_back(view.data(), view.size());
    }
    asio::error_code error;
    auto written = socket_.write_some(buffers, error);
    if (error == asio::error::would_block || error == asio::error::try_again) {
      wait_writable();
      return;
    }
    if (error) {
      close("reset", "");
      return;
    }
    plane_.count_sent(written);
    queued_ -= written;
    written += offset_;
    offset_ = 0;
    while (!out_.empty() && written >= out_.front().view().size()) {
      written -= out_.front().view().size();
      out_.pop_front();
    }
    offset_ = written;
  }
  if (closing_) close("bye", "");
}

void Connection::wait_writable() {
  waiting_ = true;
  socket_.async_wait(Socket::wait_write,
                     [self = shared_from_this()](const asio::error_code& error) {
                       self->waiting_ = false;
                       if (!error && !self->closed_) self->write_queue();
                     });
}

// -- closing ---------------------------------------------------------------------------------

void Connection::close_after_flush() {
  closing_ = true;
  dirty();
}

void Connection::close(const char* reason, const std::string& text) {
  if (closed_) return;
  closed_ = true;
  asio::error_code ignored;
  socket_.close(ignored);
  out_.clear();
  queued_ = 0;
  on_closed();
  plane_.forget(shared_from_this(), reason, text);
}

}  // namespace mpaxos
