#include "wire.hpp"

#include <cstddef>

#include "checksum.hpp"

namespace mpaxos {
namespace {

constexpr std::uint32_t kFrameMagic = 0x3178506d;  // "mPx1"
constexpr std::uint8_t kFrameVersion = 1;

std::uint32_t crc_of(const FrameHeader& header, std::string_view covered) {
  return crc32c(covered, crc32c(raw(header).substr(0, offsetof(FrameHeader, crc))));
}

}  // namespace

FrameHeader parse_header(std::string_view bytes, std::uint32_t limit) {
  const auto header = load<FrameHeader>(bytes);
  if (header.magic != kFrameMagic) throw BadInput("garbage", "this is not the mpaxos protocol");
  if (header.version != kFrameVersion) {
    throw BadInput("version", "frame version " + std::to_string(header.version) +
                                  " is not spoken here, " + std::to_string(kFrameVersion) + " is");
  }
  if (header.length > limit) {
    throw BadInput("oversize", "a frame of " + std::to_string(header.length) +
                                   " bytes is above the limit of " + std::to_string(limit));
  }
  return header;
}

void check_frame(const FrameHeader& header, std::string_view covered) {
  if (header.crc != crc_of(header, covered)) {
    throw BadInput("crc", "a frame does not match its checksum");
  }
}

FrameHeader make_header(FrameKind kind, std::size_t length, std::string_view covered) {
  FrameHeader header{kFrameMagic, kFrameVersion, kind, 0, static_cast<std::uint32_t>(length), 0};
  header.crc = crc_of(header, covered);
  return header;
}

std::string make_frame(FrameKind kind, std::string_view payload) {
  std::string frame(raw(make_header(kind, payload.size(), payload)));
  frame.append(payload);
  return frame;
}

}  // namespace mpaxos
