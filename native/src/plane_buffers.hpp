// The two byte queues of a connection: what has arrived, and what is to be written.
#pragma once

#include <asio/buffer.hpp>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shared_bytes.hpp"
#include "wire.hpp"

namespace mpaxos {

inline constexpr std::size_t kMaxPieces = 64;  // passed to one system call

// Bytes received and not yet taken. Memory follows what has really arrived, never what a length
// field announces: it grows by factors while a frame comes in and goes back once it is empty.
class ReceiveBuffer {
 public:
  // Empty buffers above `keep` bytes are given back at once. A frame whose size is known gets room
  // for `ahead` times what there was.
  ReceiveBuffer(std::size_t initial, std::size_t keep, std::size_t ahead);

  std::string_view data() const { return {bytes_.get() + begin_, end_ - begin_}; }
  bool empty() const { return begin_ == end_; }
  void take(std::size_t size);
  void clear() { begin_ = end_ = 0; }
  // `bytes` of data(), for longer than data() stays: where they are, unless that would keep much
  // more memory than they need.
  SharedBytes retain(std::string_view bytes);

  // Space for the next read, at least one byte. `wanted` is the size of the frame at the front, 0
  // when not known yet. Pointers into data() become invalid.
  asio::mutable_buffer prepare(std::size_t wanted);
  void commit(std::size_t size);

 private:
  void resize(std::size_t capacity);
  void adapt();
  std::shared_ptr<char[]> bytes_;
  bool retained_ = false;  // what is in bytes_ is another's, too: not to be written over
  std::size_t capacity_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t offered_ = 0;  // size of the space given to the last read
  std::size_t arrived_ = 0;  // what it filled of that
  const std::size_t initial_;
  const std::size_t keep_;
  const std::size_t ahead_;
};

// Bytes to be written: runs of text, and batches and chunks that are shared instead of copied.
class OutQueue {
 public:
  bool empty() const { return size_ == 0; }
  std::size_t size() const { return size_; }

  void append(std::string_view bytes);
  // Written from where they are.
  void append_shared(SharedBytes shared);

  // A frame is begun, filled with append(), and sealed with its length and checksum. `extra` bytes
  // that are shared follow the seal. Nothing may be written meanwhile.
  void begin_frame();
  void end_frame(FrameKind kind, std::size_t extra = 0);
  bool frame_open() const { return frame_open_; }
  std::size_t frame_size() const;

  // Fills `buffers` with the next pieces to write; returns their total size.
  std::size_t gather(std::vector<asio::const_buffer>& buffers) const;
  void written(std::size_t size);

 private:
  struct Segment {
    std::string text;
    SharedBytes shared;  // with an owner: the segment is this
    std::string_view bytes() const { return shared.owner ? shared.bytes : std::string_view(text); }
  };
  std::string& text();
  std::deque<Segment> segments_;
  std::size_t head_ = 0;  // bytes of the front segment that are written already
  std::size_t size_ = 0;
  std::size_t frame_at_ = 0;
  bool frame_open_ = false;
};

}  // namespace mpaxos
