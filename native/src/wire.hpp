// Frames of the peer and client ports. Formats in docs/wire.md.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mpaxos {

static_assert(std::endian::native == std::endian::little, "the wire structs are little-endian");

enum FrameKind : std::uint8_t {
  kFrameHello = 1,
  kFrameWelcome = 2,
  kFrameOpened = 3,
  kFrameRequests = 4,
  kFrameReplies = 5,
  kFrameAdmin = 6,
  kFrameAdminReply = 7,
  kFrameBye = 8,
  kFramePeerHello = 16,
  kFramePeer = 17,
  kFramePeerVote = 18,  // the same, but need not be looked at when votes are not waited for
  kFramePeerChunk = 19,  // a message that carries a chunk of an image behind it
};

inline constexpr std::uint32_t kFrameMagic = 0x3178506d;  // "mPx1"
inline constexpr std::uint8_t kFrameVersion = 1;
inline constexpr std::uint16_t kProtocol = 1;
inline constexpr std::uint16_t kPeerProtocol = 7;

struct FrameHeader {
  std::uint32_t magic;
  std::uint8_t version;
  std::uint8_t kind;
  std::uint16_t reserved;
  std::uint32_t length;
  std::uint32_t crc;
};
static_assert(sizeof(FrameHeader) == 16);

struct ClientHello {
  std::uint16_t protocol;
  std::uint16_t window;
  std::uint32_t reserved;
  std::uint64_t session;
};
static_assert(sizeof(ClientHello) == 16);

struct ReplyHeader {
  std::uint64_t sequence;
  std::uint32_t length;
  std::uint8_t status;
  std::uint8_t reserved[3];
};
static_assert(sizeof(ReplyHeader) == 16);

struct PeerHello {
  std::uint16_t protocol;
  std::uint16_t sender;
  std::uint16_t receiver;
  std::uint16_t reserved;
  char cluster[16];
  std::uint64_t agreement;
  std::uint64_t life;         // the sender's
  std::uint64_t birth;        // of the sender's data
  std::uint64_t known_life;   // of the receiver, when the sender met it
  std::uint64_t known_birth;  // 0: the sender has not met it
};
static_assert(sizeof(PeerHello) == 64);

struct PeerPrefix {
  std::uint32_t control_length;
  std::uint32_t batches;
};
static_assert(sizeof(PeerPrefix) == 8);

struct BatchRow {
  std::uint64_t time;
  std::uint64_t digest;
  std::uint32_t length;
  std::uint32_t reserved;
};
static_assert(sizeof(BatchRow) == 24);

// Why a connection was closed; the names appear as counters closed_<name>.
enum class Reason : std::uint8_t {
  kGarbage,     // not our protocol at all
  kVersion,     // our protocol, another version of it
  kCrc,         // a checksum does not match
  kOversize,    // a length above its limit
  kTruncated,   // end of stream inside a frame
  kSlow,        // a frame or handshake not complete in time
  kSlowReader,  // does not read what it asked for
  kProtocol,    // well-formed, but not allowed here
  kMismatch,    // a peer of another cluster, with other settings or another id
  kDigest,      // a batch that is not what its message says
  kLimit,       // too many connections
  kReplaced,    // a newer connection took over its session or peer
  kNoQuorum,    // cannot open a session now
  kReset,       // the connection broke
  kEof,         // the other side closed it between frames
  kShutdown,    // this replica closes
  kCount,
};
const char* reason_name(Reason reason);

// Thrown while reading a connection's bytes: that connection is closed, nothing else happens.
struct Violation {
  Reason reason;
  std::string text;
};

// The header at the front of `data`; nothing when more bytes are needed. Throws Violation as soon
// as the bytes there are cannot become a header (kGarbage, kVersion).
std::optional<FrameHeader> peek_frame(std::string_view data);

// Checks a complete frame and throws Violation (kCrc, or kGarbage when a PEER frame's parts do not
// fit its length). Returns how many bytes of the payload the checksum covers.
std::size_t check_frame(const FrameHeader& header, std::string_view payload);

// Fills in the header of a frame at `at` of `bytes`, whose covered part ends at the end of `bytes`
// and is followed by `extra` more bytes of payload that are queued elsewhere.
void seal_frame(std::string& bytes, std::size_t at, FrameKind kind, std::size_t extra = 0);

template <typename T>
T read_struct(std::string_view bytes) {
  T value;
  __builtin_memcpy(&value, bytes.data(), sizeof value);
  return value;
}

template <typename T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

}  // namespace mpaxos
