// What other systems speak, as far as setting and getting one value goes: Redis and ZooKeeper.
#include <charconv>

#include "protocol.hpp"

namespace mpaxos::load {
namespace {

// RESP2: https://redis.io/docs/reference/protocol-spec; replies come in the order of requests.
class RedisProtocol final : public Protocol {
 public:
  RedisProtocol(const Options& options, const Content& content)
      : content_(content), window_(1, options.depth) {}

  void greet(std::string& out) override {
    greeting_ = true;
    out.append("*1\r\n$4\r\nPING\r\n");
  }

  std::size_t take(std::string_view data, Sink& sink, std::string&) override {
    std::size_t at = 0;
    while (true) {
      const auto line_end = data.find("\r\n", at);
      if (line_end == std::string_view::npos) return at;
      const auto line = data.substr(at, line_end - at);
      auto end = line_end + 2;
      if (line.starts_with('$') && line != "$-1") {
        std::size_t length = 0;
        std::from_chars(line.data() + 1, line.data() + line.size(), length);
        end += length + 2;
        if (data.size() < end) return at;
      }
      on_reply(line, sink);
      at = end;
    }
  }

  bool room(bool) const override { return window_.room(); }

  void request(std::string& out, const Operation& operation, Nanos start) override {
    const auto& slot = window_.add(operation, start);
    out.append(operation.read ? "*2\r\n$3\r\nGET\r\n$16\r\n" : "*3\r\n$3\r\nSET\r\n$16\r\n");
    const auto at = out.size();
    out.append(Content::kKey, '\0');
    Content::write_key(out.data() + at, operation.key);
    if (!operation.read) {
      const auto value = content_.value(slot.number);
      out.append("\r\n$").append(std::to_string(value.size())).append("\r\n").append(value);
    }
    out.append("\r\n");
  }

  std::vector<Nanos> unanswered() override { return starts(window_); }

 private:
  void on_reply(std::string_view line, Sink& sink) {
    if (greeting_) {
      greeting_ = false;
      if (line != "+PONG") throw Failure("redis: " + std::string(line));
      return sink.ready();
    }
    if (window_.empty()) throw Failure("redis: a reply that nobody waits for");
    auto& slot = window_.oldest();
    const auto start = slot.start;
    const bool read = slot.operation.read;
    window_.remove(slot);
    if (line.starts_with('-')) return sink.failed(start, line.substr(1));
    sink.answered(start, read);
  }

  const Content& content_;
  bool greeting_ = false;
  Window window_;
};

// ZooKeeper's jute records: int length, then the record. A session is asked for with a timeout
// longer than any run, so that no pings are needed.
class ZookeeperProtocol final : public Protocol {
 public:
  ZookeeperProtocol(const Options& options, const Content& content)
      : content_(content), create_(options.create), window_(1, options.depth) {}

  void greet(std::string& out) override {
    greeting_ = true;
    append_big(out, std::int32_t{44});
    append_big(out, std::int32_t{0});       // protocol
    append_big(out, std::int64_t{0});       // last zxid seen
    append_big(out, std::int32_t{600'000});  // timeout, ms
    append_big(out, std::int64_t{0});       // session: a new one
    append_big(out, std::int32_t{16});
    out.append(16, '\0');                   // password
  }

  std::size_t take(std::string_view data, Sink& sink, std::string&) override {
    std::size_t at = 0;
    while (data.size() - at >= 4) {
      const auto length = read_big<std::int32_t>(data, at);
      if (length < 0 || length > (64 << 20)) throw Failure("zookeeper: an absurd length");
      const auto size = 4 + static_cast<std::size_t>(length);
      if (data.size() - at < size) break;
      on_record(data.substr(at + 4, size - 4), sink);
      at += size;
    }
    return at;
  }

  bool room(bool) const override { return window_.room(); }

  void request(std::string& out, const Operation& operation, Nanos start) override {
    const auto& slot = window_.add(operation, start);
    const auto at = out.size();
    append_big(out, std::int32_t{0});
    append_big(out, static_cast<std::int32_t>(slot.number));
    append_big(out, static_cast<std::int32_t>(create_ ? 1 : operation.read ? 4 : 5));
    append_text(out, "/" + Content::key(operation.key));
    if (operation.read) {
      out.push_back('\0');  // no watch
    } else {
      append_text(out, content_.value(slot.number));
      if (create_) {
        append_big(out, std::int32_t{1});  // one access rule: everything for everybody
        append_big(out, std::int32_t{31});
        append_text(out, "world");
        append_text(out, "anyone");
        append_big(out, std::int32_t{0});  // a persistent node
      } else {
        append_big(out, std::int32_t{-1});  // whatever its version
      }
    }
    std::string length;
    append_big(length, static_cast<std::int32_t>(out.size() - at - 4));
    out.replace(at, 4, length);
  }

  std::vector<Nanos> unanswered() override { return starts(window_); }

 private:
  static constexpr std::int32_t kNodeExists = -110;

  static void append_text(std::string& out, std::string_view text) {
    append_big(out, static_cast<std::int32_t>(text.size()));
    out.append(text);
  }

  void on_record(std::string_view record, Sink& sink) {
    if (greeting_) {
      greeting_ = false;
      if (record.size() < 16 || read_big<std::int32_t>(record, 4) <= 0) {
        throw Failure("zookeeper: no session");
      }
      return sink.ready();
    }
    if (record.size() < 16) throw Failure("zookeeper: a reply that is cut short");
    const auto xid = read_big<std::int32_t>(record, 0);
    if (xid < 0) return;  // pings, notifications
    auto* slot = window_.find(static_cast<std::uint64_t>(xid));
    if (slot == nullptr) throw Failure("zookeeper: a reply that nobody waits for");
    const auto start = slot->start;
    const bool read = slot->operation.read;
    window_.remove(*slot);
    const auto error = read_big<std::int32_t>(record, 12);
    if (error == 0 || (create_ && error == kNodeExists)) return sink.answered(start, read);
    sink.failed(start, "zookeeper error " + std::to_string(error));
  }

  const Content& content_;
  const bool create_;
  bool greeting_ = false;
  Window window_;
};

}  // namespace

std::unique_ptr<Protocol> make_redis(const Options& options, const Content& content) {
  return std::make_unique<RedisProtocol>(options, content);
}

std::unique_ptr<Protocol> make_zookeeper(const Options& options, const Content& content) {
  return std::make_unique<ZookeeperProtocol>(options, content);
}

}  // namespace mpaxos::load
