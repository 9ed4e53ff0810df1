#include "wire.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "checksum.hpp"

namespace mpaxos {
namespace {

// The checksum covers the header up to its crc field.
constexpr std::size_t kCoveredHeader = offsetof(FrameHeader, crc);

std::uint32_t frame_crc(const FrameHeader& header, std::string_view covered) {
  return crc32c(covered, crc32c(bytes_of(header).substr(0, kCoveredHeader)));
}

// Where the batches of a PEER frame begin. The lengths are not yet covered by any checksum, so
// they are only compared, in 64 bits, with what has really arrived.
std::size_t peer_covered(std::string_view payload) {
  if (payload.size() < sizeof(PeerPrefix)) {
    throw Violation{Reason::kGarbage, "a message shorter than its table"};
  }
  const auto prefix = read_struct<PeerPrefix>(payload);
  const std::uint64_t covered = sizeof prefix + std::uint64_t{prefix.batches} * sizeof(BatchRow) +
                                prefix.control_length;
  if (covered > payload.size()) {
    throw Violation{Reason::kGarbage, "the parts of a message do not fit its length"};
  }
  return covered;
}

}  // namespace

const char* reason_name(Reason reason) {
  static constexpr std::array names = {
      "garbage", "version", "crc",      "oversize",  "truncated", "slow", "slow_reader", "protocol",
      "mismatch", "digest", "limit",    "replaced",  "no_quorum", "reset", "eof",        "shutdown",
  };
  static_assert(names.size() == static_cast<std::size_t>(Reason::kCount));
  return names[static_cast<std::size_t>(reason)];
}

std::optional<FrameHeader> peek_frame(std::string_view data) {
  // A wrong magic is told from the first wrong byte: whoever speaks another protocol may be
  // waiting for an answer and never send the rest of a header.
  const auto magic = bytes_of(kFrameMagic);
  const auto known = std::min(data.size(), magic.size());
  if (data.substr(0, known) != magic.substr(0, known)) {
    throw Violation{Reason::kGarbage, "not the mpaxos protocol (wrong magic)"};
  }
  if (data.size() < sizeof(FrameHeader)) return std::nullopt;
  const auto header = read_struct<FrameHeader>(data);
  if (header.version != kFrameVersion) {
    throw Violation{Reason::kVersion, "frame of version " + std::to_string(header.version) +
                                          ", this replica speaks " +
                                          std::to_string(kFrameVersion)};
  }
  if (header.reserved != 0) throw Violation{Reason::kGarbage, "reserved bits set in a frame"};
  return header;
}

std::size_t check_frame(const FrameHeader& header, std::string_view payload) {
  const bool carries = header.kind == kFramePeer || header.kind == kFramePeerChunk;
  const auto covered = carries ? peer_covered(payload) : payload.size();
  if (frame_crc(header, payload.substr(0, covered)) != header.crc) {
    throw Violation{Reason::kCrc, "checksum of a frame of kind " + std::to_string(header.kind) +
                                      " does not match"};
  }
  return covered;
}

void seal_frame(std::string& bytes, std::size_t at, FrameKind kind, std::size_t extra) {
  const auto covered = std::string_view(bytes).substr(at + sizeof(FrameHeader));
  FrameHeader header{kFrameMagic, kFrameVersion, kind, 0,
                     static_cast<std::uint32_t>(covered.size() + extra), 0};
  header.crc = frame_crc(header, covered);
  std::memcpy(bytes.data() + at, &header, sizeof header);
}

}  // namespace mpaxos
