#include "jpaxos_connection.hpp"

#include <cstdint>

#include "plane.hpp"

namespace mpaxos {
namespace {

constexpr std::uint32_t kRequest = 0;
constexpr std::uint32_t kAlive = 1;
constexpr std::uint32_t kOk = 0;
constexpr std::uint32_t kNack = 1;
constexpr std::uint32_t kReconnect = 3;
constexpr std::size_t kRequestHeader = 20;
constexpr std::size_t kQueueLimit = 1 << 20;

template <typename T>
T big_endian(std::string_view bytes) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value << 8 | static_cast<std::uint8_t>(bytes[i]));
  }
  return value;
}

template <typename T>
void append(std::string& out, T value) {
  for (std::size_t i = sizeof(T); i-- > 0;) out.push_back(static_cast<char>(value >> (8 * i)));
}

// The text of a failed command: its payload is a MessagePack array of type and message.
std::string failure_text(std::string_view payload) {
  std::string text;
  std::size_t at = 1;
  for (int part = 0; part < 2 && at < payload.size(); ++part) {
    const auto tag = static_cast<std::uint8_t>(payload[at++]);
    std::size_t length = tag & 0x1f;
    std::size_t prefix = tag == 0xd9 ? 1 : tag == 0xda ? 2 : tag == 0xdb ? 4 : 0;
    if (prefix > 0) {
      if (payload.size() - at < prefix) break;
      length = 0;
      while (prefix-- > 0) length = length << 8 | static_cast<std::uint8_t>(payload[at++]);
    }
    if (part == 1 && length > 0) text += ": ";
    text += payload.substr(at, length);
    at += std::min(length, payload.size() - at);
  }
  return text.empty() ? "the command failed" : text;
}

}  // namespace

JpaxosConnection::JpaxosConnection(Plane& plane, Socket socket)
    : Connection(plane, std::move(socket), "jpaxos") {}

std::size_t JpaxosConnection::queue_limit() const {
  return kQueueLimit + plane_.options().max_request;
}

std::size_t JpaxosConnection::consume(std::string_view data) {
  if (session_ == 0) return identify(data);
  return request(data);
}

std::size_t JpaxosConnection::identify(std::string_view data) {
  if (token_ != 0) throw BadInput("protocol", "a request before the client has its id");
  if (data[0] == 'T') {
    if (plane_.refusing()) throw BadInput("refused", "no majority of the replicas is reachable");
    became_ready();
    token_ = plane_.open_session(shared_from_this(), 1);
    return 1;
  }
  if (data[0] != 'F') {
    throw BadInput("garbage", "a JPaxos client begins with 'T' or 'F', not with byte " +
                                  std::to_string(static_cast<std::uint8_t>(data[0])));
  }
  if (data.size() < 9) return 0;
  const auto id = big_endian<std::uint64_t>(data.substr(1));
  if (id == 0) throw BadInput("protocol", "client id 0 was never given out");
  became_ready();
  session_ = id;
  plane_.attach(session_, shared_from_this());
  return 9;
}

std::size_t JpaxosConnection::request(std::string_view data) {
  if (data.size() < kRequestHeader) return 0;
  const auto type = big_endian<std::uint32_t>(data);
  const auto client = big_endian<std::uint64_t>(data.substr(4));
  const auto sequence = big_endian<std::uint32_t>(data.substr(12));
  const auto length = big_endian<std::uint32_t>(data.substr(16));
  if (type != kRequest && type != kAlive) {
    throw BadInput("protocol", "unknown command type " + std::to_string(type));
  }
  if (client != session_) throw BadInput("protocol", "a request with another client's id");
  if (sequence > INT32_MAX) throw BadInput("protocol", "a negative sequence");
  const auto limit = plane_.options().max_request;
  if (length > limit) {  // a negative length is above it too
    throw BadInput("oversize", "a request of " + std::to_string(length) +
                                   " bytes is above the limit of " + std::to_string(limit));
  }
  const auto total = kRequestHeader + length;
  if (data.size() < total) {
    want(total);
    return 0;
  }
  if (type == kAlive) {
    answer_ok(sequence, {});
  } else if (plane_.refusing()) {
    answer(kReconnect, {});
  } else {
    EntryHeader entry{};
    entry.session = session_;
    entry.sequence = sequence;
    entry.lowest = sequence;  // one request outstanding at a time
    entry.length = length;
    entry.kind = kEntryCommand;
    plane_.take(entry, data.substr(kRequestHeader, length));
  }
  return total;
}

void JpaxosConnection::opened(std::uint64_t session) {
  token_ = 0;
  session_ = session;
  plane_.attach(session_, shared_from_this());
  std::string id;
  append(id, session);
  queue(std::move(id));
}

void JpaxosConnection::reply(const Reply& reply) {
  switch (reply.status) {
    case kStatusOk: answer_ok(reply.sequence, reply.payload); return;
    case kStatusRefused:
    case kStatusOverloaded: answer(kReconnect, {}); return;
    case kStatusExpired: answer(kNack, "the session of this client has expired"); return;
    case kStatusFailed: answer(kNack, failure_text(reply.payload)); return;
    default: answer(kNack, reply.payload);
  }
}

void JpaxosConnection::answer(std::uint32_t result, std::string_view bytes) {
  std::string out;
  out.reserve(8 + bytes.size());
  append(out, result);
  append(out, static_cast<std::uint32_t>(bytes.size()));
  out.append(bytes);
  queue(std::move(out));
}

void JpaxosConnection::answer_ok(std::uint64_t sequence, std::string_view value) {
  std::string out;
  out.reserve(24 + value.size());
  append(out, kOk);
  append(out, static_cast<std::uint32_t>(16 + value.size()));
  append(out, session_);
  append(out, static_cast<std::uint32_t>(sequence));
  append(out, static_cast<std::uint32_t>(value.size()));
  out.append(value);
  queue(std::move(out));
}

void JpaxosConnection::on_closed() {
  if (token_ != 0) plane_.drop_token(token_);
  if (session_ != 0) plane_.detach(session_, this);
}

}  // namespace mpaxos
