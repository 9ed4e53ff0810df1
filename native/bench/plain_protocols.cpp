// The client port of JPaxos, and the echo of the programs in bench/limit.
#include "protocol.hpp"

namespace mpaxos::load {
namespace {

class JpaxosProtocol final : public Protocol {
 public:
  explicit JpaxosProtocol(const Content& content) : content_(content), window_(1, 1) {}

  // Asks for a new id. One that is known could come back with 'F', but nothing answers that, so a
  // broken connection is not taken up again here.
  void greet(std::string& out) override { out.push_back('T'); }

  std::size_t take(std::string_view data, Sink& sink, std::string&) override {
    std::size_t at = 0;
    if (client_ == 0) {
      if (data.size() < 8) return 0;
      client_ = read_big<std::int64_t>(data, 0);
      at = 8;
      sink.ready();
    }
    while (data.size() - at >= 8) {
      const auto result = read_big<std::int32_t>(data, at);
      const auto length = read_big<std::int32_t>(data, at + 4);
      if (length < 0 || length > (64 << 20)) throw Failure("a reply of absurd length");
      const auto size = 8 + static_cast<std::size_t>(length);
      if (data.size() - at < size) break;
      on_reply(result, data.substr(at + 8, size - 8), sink);
      at += size;
    }
    return at;
  }

  bool room(bool) const override { return window_.room(); }

  void request(std::string& out, const Operation& operation, Nanos start) override {
    append(out, window_.add(operation, start));
  }

  void resend(std::string& out, bool all) override {
    window_.each([&](Window::Slot& slot) {
      if (!slot.refused && !all) return;
      slot.refused = false;
      append(out, slot);
    });
  }

  std::vector<Nanos> unanswered() override { return starts(window_); }

 private:
  void on_reply(std::int32_t result, std::string_view text, Sink& sink) {
    if (window_.empty()) throw Failure("a reply that nobody waits for");
    auto& slot = window_.oldest();
    const auto start = slot.start;
    if (result == 0) {
      if (text.size() < 16) throw Failure("a reply that is cut short");
      if (read_big<std::int32_t>(text, 8) != static_cast<std::int32_t>(slot.number)) return;
      const bool read = slot.operation.read;
      window_.remove(slot);
      sink.answered(start, read);
    } else if (result == 3) {
      slot.refused = true;
      sink.refused();
    } else {
      window_.remove(slot);
      sink.failed(start, text);
    }
  }

  void append(std::string& out, const Window::Slot& slot) {
    const bool read = slot.operation.read;
    const auto value = read ? std::string_view() : content_.value(slot.number);
    append_big(out, std::int32_t{0});
    append_big(out, client_);
    append_big(out, static_cast<std::int32_t>(slot.number));
    append_big(out, static_cast<std::int32_t>(5 + Content::kKey + value.size()));
    out.push_back(read ? 'G' : 'P');
    append_big(out, static_cast<std::uint32_t>(Content::kKey));
    out.append(Content::key(slot.operation.key));
    out.append(value);
  }

  const Content& content_;
  std::int64_t client_ = 0;
  Window window_;
};

// A request is its length in four bytes and as many bytes of value; it comes back as it is.
class EchoProtocol final : public Protocol {
 public:
  EchoProtocol(const Options& options, const Content& content)
      : content_(content), message_(4 + options.size), window_(1, options.depth) {}

  // Nothing is said at first; one message to and fro shows that the server is there.
  void greet(std::string& out) override {
    greeting_ = true;
    append(out, 0);
  }

  std::size_t take(std::string_view data, Sink& sink, std::string&) override {
    std::size_t at = 0;
    for (; data.size() - at >= message_; at += message_) {
      if (greeting_) {
        greeting_ = false;
        sink.ready();
        continue;
      }
      if (window_.empty()) throw Failure("an echo of nothing");
      auto& slot = window_.oldest();
      const auto start = slot.start;
      const bool read = slot.operation.read;
      window_.remove(slot);
      sink.answered(start, read);
    }
    return at;
  }

  bool room(bool) const override { return window_.room(); }

  void request(std::string& out, const Operation& operation, Nanos start) override {
    append(out, window_.add(operation, start).number);
  }

  std::vector<Nanos> unanswered() override { return starts(window_); }

 private:
  void append(std::string& out, std::uint64_t number) {
    append_big(out, static_cast<std::uint32_t>(message_ - 4));
    out.append(content_.value(number));
  }

  const Content& content_;
  const std::size_t message_;
  bool greeting_ = false;
  Window window_;
};

}  // namespace

std::unique_ptr<Protocol> make_jpaxos(const Options&, const Content& content) {
  return std::make_unique<JpaxosProtocol>(content);
}

std::unique_ptr<Protocol> make_echo(const Options& options, const Content& content) {
  return std::make_unique<EchoProtocol>(options, content);
}

}  // namespace mpaxos::load
