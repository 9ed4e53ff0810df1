#include "frames.hpp"

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "checksum.hpp"
#include "wire.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size,
                                        std::size_t max_size);

namespace mpaxos::fuzz {
namespace {

struct Frame {
  std::uint8_t kind;
  std::string payload;
};

// The frames at the front of a stream; what follows the last whole one is left in `rest`.
std::vector<Frame> frames_of(std::string_view stream, std::string_view& rest) {
  std::vector<Frame> frames;
  while (stream.size() >= sizeof(FrameHeader)) {
    const auto header = read_struct<FrameHeader>(stream);
    const auto size = sizeof header + std::size_t{header.length};
    if (header.magic != kFrameMagic || size > stream.size()) break;
    frames.push_back({header.kind, std::string(stream.substr(sizeof header, header.length))});
    stream.remove_prefix(size);
  }
  rest = stream;
  return frames;
}

// Puts the digests of a PEER frame's table right; returns where its batches begin.
std::size_t seal_table(std::string& payload) {
  if (payload.size() < sizeof(PeerPrefix)) return payload.size();
  const auto prefix = read_struct<PeerPrefix>(payload);
  const std::uint64_t begin = sizeof prefix + std::uint64_t{prefix.batches} * sizeof(BatchRow) +
                              prefix.control_length;
  if (begin > payload.size()) return payload.size();
  auto at = begin;
  for (std::uint32_t i = 0; i < prefix.batches; ++i) {
    const auto where = sizeof prefix + i * sizeof(BatchRow);
    auto row = read_struct<BatchRow>(std::string_view(payload).substr(where));
    if (row.length > payload.size() - at) break;
    row.digest = digest64(std::string_view(payload).substr(at, row.length));
    std::memcpy(payload.data() + where, &row, sizeof row);
    at += row.length;
  }
  return begin;
}

void append(std::string& stream, Frame frame) {
  const bool carries = frame.kind == kFramePeer || frame.kind == kFramePeerChunk;
  const auto covered = carries ? seal_table(frame.payload) : frame.payload.size();
  const auto at = stream.size();
  stream.append(sizeof(FrameHeader), '\0');
  stream.append(frame.payload, 0, covered);
  seal_frame(stream, at, static_cast<FrameKind>(frame.kind), frame.payload.size() - covered);
  stream.append(frame.payload, covered);
}

void mutate_payload(std::string& payload, std::size_t room) {
  auto bytes = payload;
  const auto most = payload.size() + room;
  bytes.resize(std::max<std::size_t>(most, 1));
  auto* data = reinterpret_cast<std::uint8_t*>(bytes.data());
  bytes.resize(LLVMFuzzerMutate(data, payload.size(), most));
  payload = bytes;
}

}  // namespace

std::string sealed(std::string stream) {
  std::string_view rest;
  const auto frames = frames_of(stream, rest);
  std::string result;
  for (const auto& frame : frames) append(result, frame);
  return result.append(rest);
}

std::size_t mutate_frames(std::uint8_t* data, std::size_t size, std::size_t max_size,
                          unsigned seed) {
  std::minstd_rand chance(seed);
  std::string_view rest;
  auto frames = size == 0 ? std::vector<Frame>()
                          : frames_of({reinterpret_cast<char*>(data) + 1, size - 1}, rest);
  if (frames.empty() || chance() % 4 == 0) return LLVMFuzzerMutate(data, size, max_size);
  auto& chosen = frames[chance() % frames.size()];
  switch (chance() % 8) {
    case 0: chosen.kind = static_cast<std::uint8_t>(1 + chance() % 19); break;
    case 1: frames.push_back(chosen); break;
    case 2: std::swap(chosen, frames.back()); break;
    case 3: data[0] = static_cast<std::uint8_t>(chance()); break;
    default: mutate_payload(chosen.payload, max_size - size); break;
  }
  std::string stream(1, static_cast<char>(data[0]));
  for (const auto& frame : frames) append(stream, frame);
  stream.append(rest);
  size = std::min(stream.size(), max_size);
  std::memcpy(data, stream.data(), size);
  return size;
}

}  // namespace mpaxos::fuzz
