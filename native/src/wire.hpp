// Frames on the client and peer ports. Formats in docs/wire.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mpaxos {

enum FrameKind : std::uint8_t {
  kHello = 1,
  kWelcome = 2,
  kOpened = 3,
  kRequests = 4,
  kReplies = 5,
  kAdmin = 6,
  kAdminReply = 7,
  kBye = 8,
  kPeerHello = 16,
  kPeer = 17,
};

inline constexpr std::uint16_t kProtocol = 1;

struct FrameHeader {
  std::uint32_t magic;
  std::uint8_t version;
  std::uint8_t kind;
  std::uint16_t reserved;
  std::uint32_t length;
  std::uint32_t crc;
};
static_assert(sizeof(FrameHeader) == 16);

struct HelloFrame {
  std::uint16_t protocol;
  std::uint16_t window;
  std::uint32_t reserved;
  std::uint64_t session;
};
static_assert(sizeof(HelloFrame) == 16);

struct ReplyHeader {
  std::uint64_t sequence;
  std::uint32_t length;
  std::uint8_t status;
  std::uint8_t reserved[3];
};
static_assert(sizeof(ReplyHeader) == 16);

struct PeerHelloFrame {
  std::uint16_t protocol;
  std::uint16_t sender;
  std::uint16_t receiver;
  std::uint16_t reserved;
  std::uint8_t cluster[16];
  std::uint64_t incarnation;
  std::uint64_t agreement;
};
static_assert(sizeof(PeerHelloFrame) == 40);

struct PeerFrameHeader {
  std::uint32_t control_length;
  std::uint32_t batches;
};

struct PeerFrameBatch {
  std::uint64_t time;
  std::uint64_t digest;
  std::uint32_t length;
  std::uint32_t reserved;
};
static_assert(sizeof(PeerFrameBatch) == 24);

// Why a connection was closed; the name goes into the counter closed_<name>.
class BadInput : public std::exception {
 public:
  BadInput(const char* reason, std::string text) : reason_(reason), text_(std::move(text)) {}
  const char* reason() const { return reason_; }
  const std::string& text() const { return text_; }
  const char* what() const noexcept override { return text_.c_str(); }

 private:
  const char* reason_;
  std::string text_;
};

// Reads a plain record from the front of `bytes`, which must be long enough.
template <typename T>
T load(std::string_view bytes) {
  T value;
  bytes.copy(reinterpret_cast<char*>(&value), sizeof value);
  return value;
}

template <typename T>
std::string_view raw(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// Checks magic, version and length; throws BadInput. The checksum comes with the payload.
FrameHeader parse_header(std::string_view bytes, std::uint32_t limit);

// Throws BadInput unless the frame's checksum is that of its header and `covered`.
void check_frame(const FrameHeader& header, std::string_view covered);

// The header of a frame whose payload has `length` bytes, of which `covered` is checksummed.
FrameHeader make_header(FrameKind kind, std::size_t length, std::string_view covered);

// A whole frame.
std::string make_frame(FrameKind kind, std::string_view payload);

}  // namespace mpaxos
