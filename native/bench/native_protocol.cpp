// The client port of mpaxos: docs/wire.md and docs/sessions.md.
#include "batch.hpp"
#include "protocol.hpp"
#include "wire.hpp"

namespace mpaxos::load {
namespace {

constexpr std::uint64_t kFirstQuery = 1ULL << 63;

// A frame is closed beyond this: the replica's limit is at least 4 MiB.
constexpr std::size_t kFullFrame = 1 << 20;
constexpr std::size_t kLargestFrame = 64 << 20;

// MessagePack of an array of a method's name and arguments, as typed clients send it.
void append_packed(std::string& out, std::string_view method, std::string_view key,
                   const std::string_view* value) {
  out.push_back(static_cast<char>(0x90 | (value == nullptr ? 2 : 3)));
  out.push_back(static_cast<char>(0xa0 | method.size()));
  out.append(method);
  out.push_back(static_cast<char>(0xa0 | key.size()));
  out.append(key);
  if (value == nullptr) return;
  if (value->size() < 256) {
    out.push_back(static_cast<char>(0xc4));
    append_big(out, static_cast<std::uint8_t>(value->size()));
  } else if (value->size() < 65536) {
    out.push_back(static_cast<char>(0xc5));
    append_big(out, static_cast<std::uint16_t>(value->size()));
  } else {
    out.push_back(static_cast<char>(0xc6));
    append_big(out, static_cast<std::uint32_t>(value->size()));
  }
  out.append(*value);
}

class NativeProtocol final : public Protocol {
 public:
  NativeProtocol(const Options& options, const Content& content)
      : content_(content),
        packed_(options.machine == "command"),
        depth_(static_cast<std::uint16_t>(options.depth)),
        commands_(1, options.depth),
        queries_(kFirstQuery, options.depth) {}

  void greet(std::string& out) override {
    frame_ = kNoFrame;
    const ClientHello hello{kProtocol, depth_, 0, session_};
    const auto at = out.size();
    out.append(sizeof(FrameHeader), '\0');
    out.append(bytes_of(hello));
    seal(out, at, kFrameHello);
  }

  std::size_t take(std::string_view data, Sink& sink, std::string& out) override {
    std::size_t at = 0;
    try {
      while (const auto header = peek_frame(data.substr(at))) {
        if (header->length > kLargestFrame) throw Failure("a frame of absurd length");
        if (data.size() - at < sizeof *header + header->length) break;
        const auto payload = data.substr(at + sizeof *header, header->length);
        check_frame(*header, payload);
        at += sizeof *header + payload.size();
        on_frame(header->kind, payload, sink, out);
      }
    } catch (const Violation& violation) {
      throw Failure("the replica sent nonsense: " + violation.text);
    }
    return at;
  }

  bool room(bool read) const override { return read ? queries_.room() : commands_.room(); }

  void request(std::string& out, const Operation& operation, Nanos start) override {
    auto& window = operation.read ? queries_ : commands_;
    append(out, window.add(operation, start));
  }

  void finish(std::string& out) override {
    if (frame_ == kNoFrame) return;
    seal(out, frame_, kFrameRequests);
    frame_ = kNoFrame;
  }

  void resend(std::string& out, bool all) override {
    for (auto* window : {&commands_, &queries_}) {
      window->each([&](Window::Slot& slot) {
        if (!all && !slot.refused) return;
        slot.refused = false;
        append(out, slot);
      });
    }
    if (closing_ != 0 && all) append_close(out);
    finish(out);
  }

  bool resumable() const override { return true; }

  bool close(std::string& out) override {
    if (session_ == 0) return false;
    closing_ = commands_.next();
    append_close(out);
    finish(out);
    return true;
  }

  std::vector<Nanos> unanswered() override {
    auto found = starts(commands_);
    for (const auto start : starts(queries_)) found.push_back(start);
    return found;
  }

 private:
  static constexpr std::size_t kNoFrame = ~std::size_t{0};

  static void seal(std::string& out, std::size_t at, FrameKind kind) { seal_frame(out, at, kind); }

  void on_frame(std::uint8_t kind, std::string_view payload, Sink& sink, std::string& out) {
    switch (kind) {
      case kFrameReplies: return on_replies(payload, sink);
      case kFrameWelcome:
        if (payload.size() < 16) throw Failure("a welcome that is too short");
        if (session_ != 0) become_ready(sink, out);
        return;
      case kFrameOpened:
        if (payload.size() != 8) throw Failure("a malformed opening of a session");
        session_ = read_struct<std::uint64_t>(payload);
        return become_ready(sink, out);
      case kFrameBye:  // the replica closes the connection after it; elsewhere it may go better
        return sink.said(payload.substr(0, 200));
      default: throw Failure("the replica sent a frame of kind " + std::to_string(kind));
    }
  }

  void become_ready(Sink& sink, std::string& out) {
    resend(out, true);
    sink.ready();
  }

  void on_replies(std::string_view payload, Sink& sink) {
    while (!payload.empty()) {
      if (payload.size() < sizeof(ReplyHeader)) throw Failure("a reply that is cut short");
      const auto header = read_struct<ReplyHeader>(payload);
      payload.remove_prefix(sizeof header);
      if (payload.size() < header.length) throw Failure("a reply that is cut short");
      on_reply(header, payload.substr(0, header.length), sink);
      payload.remove_prefix(header.length);
    }
  }

  void on_reply(const ReplyHeader& header, std::string_view text, Sink& sink) {
    if (closing_ != 0 && header.sequence == closing_) return sink.closed();
    auto& window = header.sequence >= kFirstQuery ? queries_ : commands_;
    auto* slot = window.find(header.sequence);
    if (slot == nullptr) return;  // a second copy: it was sent again after a reconnection
    const auto start = slot->start;
    switch (header.status) {
      case kStatusOk: {
        const bool read = slot->operation.read;
        window.remove(*slot);
        return sink.answered(start, read);
      }
      case kStatusRefused:
      case kStatusOverloaded:
        slot->refused = true;
        return sink.refused();
      case kStatusExpired: throw Failure("the session has expired: raise limits.max_sessions");
      case kStatusNoSpace: window.remove(*slot); return sink.failed(start, "no space");
      case kStatusFailed: window.remove(*slot); return sink.failed(start, "command failed");
      default: window.remove(*slot); return sink.failed(start, text);
    }
  }

  void begin_entry(std::string& out) {
    if (frame_ != kNoFrame && out.size() - frame_ > kFullFrame) finish(out);
    if (frame_ != kNoFrame) return;
    frame_ = out.size();
    out.append(sizeof(FrameHeader), '\0');
  }

  void append(std::string& out, const Window::Slot& slot) {
    begin_entry(out);
    const auto at = out.size();
    EntryHeader header{};
    header.session = session_;
    header.sequence = slot.number;
    header.lowest = commands_.lowest();
    header.kind = slot.operation.read ? kEntryQuery : kEntryCommand;
    out.append(bytes_of(header));
    char key[Content::kKey];
    Content::write_key(key, slot.operation.key);
    append_payload(out, slot, {key, sizeof key});
    header.length = static_cast<std::uint32_t>(out.size() - at - sizeof header);
    out.replace(at, sizeof header, bytes_of(header));
  }

  void append_payload(std::string& out, const Window::Slot& slot, std::string_view key) {
    const bool read = slot.operation.read;
    const auto value = read ? std::string_view() : content_.value(slot.number);
    if (packed_) {
      return append_packed(out, read ? "get" : "put", key, read ? nullptr : &value);
    }
    out.push_back(read ? 'g' : 'p');
    append_big(out, static_cast<std::uint32_t>(key.size()));
    out.append(key);
    out.append(value);
  }

  void append_close(std::string& out) {
    begin_entry(out);
    EntryHeader header{};
    header.session = session_;
    header.sequence = closing_;
    header.lowest = commands_.lowest();
    header.kind = kEntryClose;
    out.append(bytes_of(header));
  }

  const Content& content_;
  const bool packed_;
  const std::uint16_t depth_;
  std::uint64_t session_ = 0;
  std::uint64_t closing_ = 0;
  std::size_t frame_ = kNoFrame;  // where the open frame of requests begins in the output
  Window commands_;
  Window queries_;
};

}  // namespace

std::unique_ptr<Protocol> make_native(const Options& options, const Content& content) {
  return std::make_unique<NativeProtocol>(options, content);
}

}  // namespace mpaxos::load
