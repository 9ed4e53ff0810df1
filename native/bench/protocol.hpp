// One connection's half of a protocol: bytes out, bytes in. No sockets, no clock.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "keys.hpp"
#include "options.hpp"

namespace mpaxos::load {

// What the bytes that came in meant.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void ready() = 0;                                        // requests may be sent
  virtual void answered(Nanos start, bool read) = 0;               // as it should be
  virtual void failed(Nanos start, std::string_view text) = 0;     // with an error; it is over
  virtual void refused() = 0;                                      // not executed; send it again
  virtual void said(std::string_view text) = 0;                    // why it will hang up
  virtual void closed() = 0;                                       // after close()
};

// Bytes that all connections share.
class Content {
 public:
  explicit Content(const Options& options);
  static constexpr std::size_t kKey = 16;
  // "k" and 15 digits, at `out`.
  static void write_key(char* out, std::uint64_t key);
  static std::string key(std::uint64_t key);
  // Incompressible and different from one request to the next.
  std::string_view value(std::uint64_t salt) const {
    return std::string_view(bytes_).substr(salt % kOffsets, size_);
  }

 private:
  static constexpr std::size_t kOffsets = 4093;
  std::size_t size_;
  std::string bytes_;
};

// Requests in flight that have consecutive numbers: finds one by its number, knows the lowest.
class Window {
 public:
  struct Slot {
    std::uint64_t number = 0;
    Nanos start = 0;
    Operation operation{};
    bool refused = false;  // to be sent again
    bool message = false;  // etcd: it brought a message
    bool open = false;
  };
  Window(std::uint64_t first, std::size_t size) : next_(first), lowest_(first), slots_(size) {}
  bool room() const { return next_ < lowest_ + slots_.size(); }
  bool empty() const { return lowest_ == next_; }
  std::uint64_t lowest() const { return lowest_; }
  std::uint64_t next() const { return next_; }
  Slot& add(const Operation& operation, Nanos start) {
    auto& slot = slots_[next_ % slots_.size()];
    slot = {next_++, start, operation, false, false, true};
    return slot;
  }
  Slot* find(std::uint64_t number) {
    auto& slot = slots_[number % slots_.size()];
    return slot.open && slot.number == number ? &slot : nullptr;
  }
  Slot& oldest() { return slots_[lowest_ % slots_.size()]; }
  void remove(Slot& slot) {
    slot.open = false;
    while (lowest_ < next_ && !slots_[lowest_ % slots_.size()].open) ++lowest_;
  }
  template <typename Function>
  void each(Function&& function) {
    for (auto number = lowest_; number < next_; ++number) {
      if (auto* slot = find(number)) function(*slot);
    }
  }

 private:
  std::uint64_t next_;
  std::uint64_t lowest_;
  std::vector<Slot> slots_;
};

class Protocol {
 public:
  virtual ~Protocol() = default;
  // The first bytes of a connection, also of one that follows a broken one.
  virtual void greet(std::string& out) = 0;
  // Takes whole messages from the front of `data` and returns how many bytes that were. Throws
  // Failure for what makes no sense.
  virtual std::size_t take(std::string_view data, Sink& sink, std::string& out) = 0;
  virtual bool room(bool read) const = 0;
  virtual void request(std::string& out, const Operation& operation, Nanos start) = 0;
  // Whatever must follow the last request of a turn.
  virtual void finish(std::string&) {}
  // Sends unanswered requests again: those refused, or after a new greeting all of them.
  virtual void resend(std::string&, bool /*all*/) {}
  // True when a broken connection can be taken up again without running a request twice.
  virtual bool resumable() const { return false; }
  // Asks to be forgotten; false when the protocol knows nothing like it.
  virtual bool close(std::string&) { return false; }
  // Start times of what is in flight.
  virtual std::vector<Nanos> unanswered() = 0;
};

using MakeProtocol = std::unique_ptr<Protocol> (*)(const Options&, const Content&);
MakeProtocol find_protocol(const std::string& name);

std::unique_ptr<Protocol> make_native(const Options&, const Content&);
std::unique_ptr<Protocol> make_jpaxos(const Options&, const Content&);
std::unique_ptr<Protocol> make_echo(const Options&, const Content&);
std::unique_ptr<Protocol> make_redis(const Options&, const Content&);
std::unique_ptr<Protocol> make_zookeeper(const Options&, const Content&);
std::unique_ptr<Protocol> make_etcd(const Options&, const Content&);

// Starts of all requests in flight of a window.
std::vector<Nanos> starts(Window& window);

template <typename T>
void append_big(std::string& out, T value) {
  for (int shift = 8 * (static_cast<int>(sizeof(T)) - 1); shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>(static_cast<std::uint64_t>(value) >> shift));
  }
}

template <typename T>
T read_big(std::string_view data, std::size_t at) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = value << 8 | static_cast<unsigned char>(data[at + i]);
  }
  return static_cast<T>(value);
}

}  // namespace mpaxos::load
