// etcd's KV/Put and KV/Range: gRPC over HTTP/2 (RFC 7540) without TLS, as little of it as this
// needs. Header blocks are sent as literals without index, and those received are not decoded:
// a call that went well brings a message before its stream ends, one that failed only trailers.
#include <algorithm>
#include <map>

#include "protocol.hpp"

namespace mpaxos::load {
namespace {

enum FrameType : std::uint8_t {
  kData = 0,
  kHeaders = 1,
  kReset = 3,
  kSettings = 4,
  kPing = 6,
  kGoAway = 7,
  kWindowUpdate = 8,
};
enum Flags : std::uint8_t { kEndStream = 1, kAck = 1, kEndHeaders = 4 };

constexpr std::uint32_t kMaxFrame = 16384;
constexpr std::int64_t kReceiveWindow = 1 << 30;

void append_frame_header(std::string& out, std::size_t length, FrameType type, int flags,
                         std::uint32_t stream) {
  out.push_back(static_cast<char>(length >> 16));
  append_big(out, static_cast<std::uint16_t>(length));
  out.push_back(static_cast<char>(type));
  out.push_back(static_cast<char>(flags));
  append_big(out, stream);
}

void append_header(std::string& out, std::string_view name, std::string_view value) {
  out.push_back('\0');
  out.push_back(static_cast<char>(name.size()));
  out.append(name);
  out.push_back(static_cast<char>(value.size()));
  out.append(value);
}

std::string header_block(std::string_view path) {
  std::string block;
  append_header(block, ":method", "POST");
  append_header(block, ":scheme", "http");
  append_header(block, ":path", path);
  append_header(block, ":authority", "etcd");
  append_header(block, "content-type", "application/grpc");
  append_header(block, "te", "trailers");
  return block;
}

void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void append_field(std::string& out, int field, std::string_view value) {
  out.push_back(static_cast<char>(field << 3 | 2));
  append_varint(out, value.size());
  out.append(value);
}

class EtcdProtocol final : public Protocol {
 public:
  EtcdProtocol(const Options& options, const Content& content)
      : content_(content),
        put_(header_block("/etcdserverpb.KV/Put")),
        range_(header_block("/etcdserverpb.KV/Range")),
        window_(0, options.depth) {}

  void greet(std::string& out) override {
    out.append("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    append_frame_header(out, 6, kSettings, 0, 0);
    append_big(out, std::uint16_t{4});  // initial window of streams
    append_big(out, static_cast<std::uint32_t>(kReceiveWindow));
    grant(out, kReceiveWindow);
  }

  std::size_t take(std::string_view data, Sink& sink, std::string& out) override {
    std::size_t at = 0;
    while (data.size() - at >= 9) {
      const auto length = read_big<std::uint32_t>(data, at) >> 8;
      if (data.size() - at < 9 + length) break;
      const auto type = static_cast<std::uint8_t>(data[at + 3]);
      const auto flags = static_cast<std::uint8_t>(data[at + 4]);
      const auto stream = read_big<std::uint32_t>(data, at + 5) & 0x7fffffff;
      on_frame(type, flags, stream, data.substr(at + 9, length), sink, out);
      at += 9 + length;
    }
    pump(out);
    return at;
  }

  bool room(bool) const override { return window_.room(); }

  void request(std::string& out, const Operation& operation, Nanos start) override {
    const auto& slot = window_.add(operation, start);
    const auto stream = static_cast<std::uint32_t>(2 * slot.number + 1);
    if (stream > 0x7ffffff0) throw Failure("etcd: a connection cannot have more requests");
    const auto& block = operation.read ? range_ : put_;
    append_frame_header(out, block.size(), kHeaders, kEndHeaders, stream);
    out.append(block);
    std::string body;
    append_field(body, 1, Content::key(operation.key));
    if (!operation.read) append_field(body, 2, content_.value(slot.number));
    std::string message(1, '\0');  // not compressed
    append_big(message, static_cast<std::uint32_t>(body.size()));
    message.append(body);
    bodies_.emplace(stream, Body{std::move(message), 0, initial_window_});
    pump(out);
  }

  std::vector<Nanos> unanswered() override { return starts(window_); }

 private:
  // A request's body as far as it is not sent: the server's flow control may hold it back.
  struct Body {
    std::string bytes;
    std::size_t sent;
    std::int64_t window;
  };

  static void grant(std::string& out, std::int64_t bytes) {
    append_frame_header(out, 4, kWindowUpdate, 0, 0);
    append_big(out, static_cast<std::uint32_t>(bytes));
  }

  void pump(std::string& out) {
    for (auto at = bodies_.begin(); at != bodies_.end() && send_window_ > 0;) {
      auto& [stream, body] = *at;
      while (body.sent < body.bytes.size() && body.window > 0 && send_window_ > 0) {
        const auto left = static_cast<std::int64_t>(body.bytes.size() - body.sent);
        const auto part = std::min({left, body.window, send_window_, std::int64_t{kMaxFrame}});
        append_frame_header(out, static_cast<std::size_t>(part), kData,
                            part == left ? kEndStream : 0, stream);
        out.append(body.bytes, body.sent, static_cast<std::size_t>(part));
        body.sent += static_cast<std::size_t>(part);
        body.window -= part;
        send_window_ -= part;
      }
      at = body.sent == body.bytes.size() ? bodies_.erase(at) : std::next(at);
    }
  }

  void on_frame(std::uint8_t type, int flags, std::uint32_t stream, std::string_view payload,
                Sink& sink, std::string& out) {
    switch (type) {
      case kSettings: return on_settings(flags, payload, sink, out);
      case kData:
        received_ += static_cast<std::int64_t>(payload.size());
        if (received_ > kReceiveWindow / 2) {
          grant(out, received_);
          received_ = 0;
        }
        if (auto* slot = of_stream(stream)) slot->message = true;
        if ((flags & kEndStream) != 0) on_end(stream, sink, "the call ended without trailers");
        return;
      case kHeaders:
        if ((flags & kEndStream) != 0) on_end(stream, sink, "the call failed");
        return;
      case kReset: return on_end(stream, sink, "the stream was reset");
      case kPing:
        if ((flags & kAck) != 0 || payload.size() != 8) return;
        append_frame_header(out, 8, kPing, kAck, 0);
        out.append(payload);
        return;
      case kGoAway: throw Failure("etcd: it says go away");
      case kWindowUpdate: return on_window(stream, payload);
      default: return;
    }
  }

  void on_settings(int flags, std::string_view payload, Sink& sink, std::string& out) {
    if ((flags & kAck) != 0) return;
    for (std::size_t at = 0; at + 6 <= payload.size(); at += 6) {
      if (read_big<std::uint16_t>(payload, at) == 4) {
        const auto value = std::int64_t{read_big<std::uint32_t>(payload, at + 2)};
        for (auto& [stream, body] : bodies_) body.window += value - initial_window_;
        initial_window_ = value;
      }
    }
    append_frame_header(out, 0, kSettings, kAck, 0);
    if (!ready_) {
      ready_ = true;
      sink.ready();
    }
  }

  void on_window(std::uint32_t stream, std::string_view payload) {
    if (payload.size() != 4) return;
    const auto more = read_big<std::uint32_t>(payload, 0) & 0x7fffffff;
    if (stream == 0) {
      send_window_ += more;
    } else if (const auto body = bodies_.find(stream); body != bodies_.end()) {
      body->second.window += more;
    }
  }

  Window::Slot* of_stream(std::uint32_t stream) { return window_.find(stream / 2); }

  void on_end(std::uint32_t stream, Sink& sink, const char* otherwise) {
    auto* slot = of_stream(stream);
    if (slot == nullptr) return;
    const auto start = slot->start;
    const bool read = slot->operation.read;
    const bool good = slot->message;
    bodies_.erase(stream);
    window_.remove(*slot);
    if (good) return sink.answered(start, read);
    sink.failed(start, otherwise);
  }

  const Content& content_;
  const std::string put_;
  const std::string range_;
  bool ready_ = false;
  std::int64_t initial_window_ = 65535;
  std::int64_t send_window_ = 65535;
  std::int64_t received_ = 0;
  std::map<std::uint32_t, Body> bodies_;
  Window window_;
};

}  // namespace

std::unique_ptr<Protocol> make_etcd(const Options& options, const Content& content) {
  return std::make_unique<EtcdProtocol>(options, content);
}

}  // namespace mpaxos::load
