// A chunk of an image in memory, on its way from one replica to another without a copy.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "image_format.hpp"
#include "shared_bytes.hpp"

namespace mpaxos {

// Immutable, and whole: its checksum was compared, or made, when it came into being, so nobody
// who gets one needs to do it again.
class ImageChunk {
 public:
  // Throws kWire unless `from` is a chunk with its checksum.
  static std::shared_ptr<const ImageChunk> parse(SharedBytes from) {
    const ChunkReader checked(from.bytes);
    return std::shared_ptr<const ImageChunk>(new ImageChunk(std::move(from), checked.header()));
  }
  // Of an image made here: it was sealed a moment ago.
  static std::shared_ptr<const ImageChunk> sealed(std::string bytes) {
    const auto header = ChunkReader::header_of(bytes);
    return std::shared_ptr<const ImageChunk>(
        new ImageChunk(SharedBytes::of(std::move(bytes)), header));
  }

  std::string_view bytes() const { return held_.bytes; }
  const ChunkHeader& header() const { return header_; }
  bool final() const { return (header_.flags & kChunkFinal) != 0; }
  ChunkReader reader() const { return ChunkReader(bytes(), header_); }

 private:
  ImageChunk(SharedBytes held, const ChunkHeader& header)
      : held_(std::move(held)), header_(header) {}

  SharedBytes held_;
  ChunkHeader header_;
};
using ChunkPtr = std::shared_ptr<const ImageChunk>;

}  // namespace mpaxos
