// A chunk of an image in memory, on its way from one replica to another without a copy.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "image_format.hpp"

namespace mpaxos {

// Immutable, and whole: its checksum was compared, or made, when it came into being, so nobody
// who gets one needs to do it again.
class ImageChunk {
 public:
  // Takes over `bytes`; throws kWire unless they are a chunk with its checksum.
  static std::shared_ptr<const ImageChunk> parse(std::string bytes) {
    const ChunkReader checked(bytes);
    return std::shared_ptr<const ImageChunk>(new ImageChunk(std::move(bytes), checked.header()));
  }
  // Of an image made here: they were sealed a moment ago.
  static std::shared_ptr<const ImageChunk> sealed(std::string bytes) {
    const auto header = ChunkReader::header_of(bytes);
    return std::shared_ptr<const ImageChunk>(new ImageChunk(std::move(bytes), header));
  }

  std::string_view bytes() const { return bytes_; }
  const ChunkHeader& header() const { return header_; }
  bool final() const { return (header_.flags & kChunkFinal) != 0; }
  ChunkReader reader() const { return ChunkReader(bytes_, header_); }

 private:
  ImageChunk(std::string bytes, const ChunkHeader& header)
      : bytes_(std::move(bytes)), header_(header) {}

  std::string bytes_;
  ChunkHeader header_;
};
using ChunkPtr = std::shared_ptr<const ImageChunk>;

}  // namespace mpaxos
