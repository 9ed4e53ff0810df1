#include "jpaxos_connection.hpp"

#include <optional>
#include <type_traits>

#include "plane_hub.hpp"

namespace mpaxos {
namespace {

constexpr std::size_t kRequestHeader = 20;
constexpr std::int32_t kTypeRequest = 0;
constexpr std::int32_t kTypeAlive = 1;

constexpr std::int32_t kResultOk = 0;
constexpr std::int32_t kResultNack = 1;
constexpr std::int32_t kResultReconnect = 3;

template <typename T>
T big_endian(std::string_view bytes) {
  std::make_unsigned_t<T> value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<decltype(value)>((value << 8) | static_cast<unsigned char>(bytes[i]));
  }
  return static_cast<T>(value);
}

template <typename T>
void append_big_endian(std::string& out, T value) {
  const auto bits = static_cast<std::make_unsigned_t<T>>(value);
  for (int shift = 8 * (sizeof(T) - 1); shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>(bits >> shift));
  }
}

// A MessagePack string at the front of `bytes`, which moves behind it.
std::optional<std::string_view> take_text(std::string_view& bytes) {
  if (bytes.empty()) return std::nullopt;
  const auto head = static_cast<unsigned char>(bytes[0]);
  std::size_t width = 0;
  std::size_t length = head & 0x1f;
  if (head == 0xd9) {
    width = 1;
  } else if (head == 0xda) {
    width = 2;
  } else if (head == 0xdb) {
    width = 4;
  } else if ((head & 0xe0) != 0xa0) {
    return std::nullopt;
  }
  if (bytes.size() < 1 + width) return std::nullopt;
  if (width == 1) length = big_endian<std::uint8_t>(bytes.substr(1));
  if (width == 2) length = big_endian<std::uint16_t>(bytes.substr(1));
  if (width == 4) length = big_endian<std::uint32_t>(bytes.substr(1));
  if (bytes.size() - 1 - width < length) return std::nullopt;
  const auto text = bytes.substr(1 + width, length);
  bytes.remove_prefix(1 + width + length);
  return text;
}

std::string nack_text(const Reply& reply) {
  switch (reply.status) {
    case kStatusFailed: return failure_text(reply.payload);
    case kStatusExpired: return "the session has expired: connect again and ask for a new id";
    case kStatusNoSpace: return "no space left for the state";
    case kStatusBad: return std::string(reply.payload);
    default: return "status " + std::to_string(reply.status);
  }
}

}  // namespace

std::string failure_text(std::string_view payload) {
  if (!payload.empty() && static_cast<unsigned char>(payload[0]) == 0x92) {
    payload.remove_prefix(1);
    const auto type = take_text(payload);
    const auto message = type ? take_text(payload) : std::nullopt;
    if (message) return std::string(*type) + ": " + std::string(*message);
  }
  return "the command failed";
}

JpaxosConnection::JpaxosConnection(Hub& hub, asio::ip::tcp::socket socket)
    : Connection(hub, std::move(socket), Port::kJpaxos) {}

std::shared_ptr<JpaxosConnection> JpaxosConnection::self() {
  return std::static_pointer_cast<JpaxosConnection>(shared_from_this());
}

std::size_t JpaxosConnection::take(std::string_view data) {
  std::size_t at = 0;
  while (at < data.size() && !closed()) {
    const auto rest = data.substr(at);
    const auto taken = state_ == State::kNew ? take_greeting(rest) : take_request(rest);
    if (taken == 0) break;
    at += taken;
    hub_.count_frame();
  }
  return at;
}

std::size_t JpaxosConnection::take_greeting(std::string_view data) {
  if (data[0] == 'T') {
    greeted_ = true;
    state_ = State::kOpening;
    if (hub_.quorum()) {
      token_ = hub_.open_session(self(), 1);
    } else {
      // There is no answer that says "not now"; the originals then try another replica.
      close(Reason::kNoQuorum);
    }
    return 1;
  }
  if (data[0] != 'F') {
    throw Violation{Reason::kGarbage, "the first byte is neither T nor F"};
  }
  if (data.size() < 9) return 0;
  session_ = big_endian<std::uint64_t>(data.substr(1));
  if (session_ == 0) throw Violation{Reason::kProtocol, "0 is not a client id"};
  greeted_ = true;
  state_ = State::kReady;
  hub_.attach(session_, self());
  return 9;
}

std::size_t JpaxosConnection::take_request(std::string_view data) {
  if (state_ == State::kOpening) {
    throw Violation{Reason::kProtocol, "a request before the client has its id"};
  }
  if (data.size() < kRequestHeader) return 0;
  const Request request{big_endian<std::int32_t>(data), big_endian<std::int64_t>(data.substr(4)),
                        big_endian<std::int32_t>(data.substr(12)),
                        big_endian<std::int32_t>(data.substr(16))};
  if (request.type != kTypeRequest && request.type != kTypeAlive) {
    throw Violation{Reason::kProtocol, "unknown command type " + std::to_string(request.type)};
  }
  const auto limit = hub_.options().max_request;
  if (request.length < 0) {
    throw Violation{Reason::kOversize, "a negative length, " + std::to_string(request.length)};
  }
  if (static_cast<std::size_t>(request.length) > limit) {
    throw Violation{Reason::kOversize, "a request of " + std::to_string(request.length) +
                                           " bytes, the limit is " + std::to_string(limit)};
  }
  if (static_cast<std::uint64_t>(request.client) != session_) {
    throw Violation{Reason::kProtocol, "a request of another client id"};
  }
  const auto size = kRequestHeader + static_cast<std::size_t>(request.length);
  if (data.size() < size) {
    wanted_ = size;
    return 0;
  }
  on_request(request, data.substr(kRequestHeader, size - kRequestHeader));
  return size;
}

void JpaxosConnection::on_request(const Request& request, std::string_view payload) {
  if (request.type == kTypeAlive) return send_ok(request.sequence, {});
  if (request.sequence < 1) {
    throw Violation{Reason::kProtocol, "a request of sequence " +
                                           std::to_string(request.sequence) +
                                           ": sequences start at 1"};
  }
  if (awaited_ >= 0 && awaited_ != request.sequence) {
    throw Violation{Reason::kProtocol, "a request while another one is unanswered"};
  }
  if (!hub_.quorum()) {
    ++hub_.counters().refused;
    return send(kResultReconnect, {});
  }
  awaited_ = request.sequence;
  EntryHeader header{};
  header.session = session_;
  header.sequence = static_cast<std::uint64_t>(request.sequence);
  header.lowest = header.sequence;
  header.length = static_cast<std::uint32_t>(payload.size());
  header.kind = kEntryCommand;
  hub_.command(header, payload);
}

void JpaxosConnection::deliver(const Reply& reply) {
  // A reply to an earlier connection of this session, or a second copy: nobody waits for it.
  if (awaited_ < 0 || reply.sequence != static_cast<std::uint64_t>(awaited_)) return;
  const auto sequence = static_cast<std::int32_t>(awaited_);
  awaited_ = -1;
  switch (reply.status) {
    case kStatusOk:
      return send_ok(sequence, reply.payload);
    case kStatusRefused:
    case kStatusOverloaded:
      return send(kResultReconnect, {});
    default:
      return send(kResultNack, nack_text(reply));
  }
}

void JpaxosConnection::send(std::int32_t result, std::string_view payload) {
  if (closed()) return;
  std::string head;
  append_big_endian(head, result);
  append_big_endian(head, static_cast<std::int32_t>(payload.size()));
  out_.append(head);
  out_.append(payload);
  mark_dirty();
  if (out_.size() <= kMaxClientQueue) return;
  write();
  if (out_.size() > kMaxClientQueue) {
    close(Reason::kSlowReader, "the client does not read its replies");
  }
}

void JpaxosConnection::send_ok(std::int32_t sequence, std::string_view value) {
  std::string body;
  body.reserve(16 + value.size());
  append_big_endian(body, session_);
  append_big_endian(body, sequence);
  append_big_endian(body, static_cast<std::int32_t>(value.size()));
  body.append(value);
  send(kResultOk, body);
}

void JpaxosConnection::opened(std::uint64_t session) {
  token_ = 0;
  if (closed()) return;
  if (session == 0) return close(Reason::kProtocol, "the session could not be opened");
  session_ = session;
  state_ = State::kReady;
  hub_.attach(session, self());
  std::string id;
  append_big_endian(id, session);
  out_.append(id);
  mark_dirty();
}

void JpaxosConnection::replaced() { close(Reason::kReplaced); }

void JpaxosConnection::gone() {
  if (token_ != 0) hub_.forget_token(token_);
  if (session_ != 0) hub_.detach(session_, this);
}

}  // namespace mpaxos
