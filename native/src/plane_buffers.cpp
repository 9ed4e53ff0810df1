#include "plane_buffers.hpp"

#include <algorithm>
#include <cstring>

#include "error.hpp"

namespace mpaxos {
namespace {

constexpr std::size_t kReadAhead = 64 * 1024;     // a busy connection's buffer grows up to this
constexpr std::size_t kTextSegment = 64 * 1024;   // then a new segment is begun
constexpr std::size_t kTextKept = 256 * 1024;     // memory an idle connection keeps for writing

}  // namespace

ReceiveBuffer::ReceiveBuffer(std::size_t initial, std::size_t keep)
    : bytes_(new char[initial]), capacity_(initial), initial_(initial), keep_(keep) {}

void ReceiveBuffer::take(std::size_t size) {
  invariant(size <= end_ - begin_, "more bytes taken than had arrived");
  begin_ += size;
  if (begin_ == end_) begin_ = end_ = 0;
}

void ReceiveBuffer::commit(std::size_t size) {
  invariant(size <= capacity_ - end_, "more bytes arrived than fit");
  end_ += size;
  arrived_ = size;
}

// Keeps what is inside and puts it at the front.
void ReceiveBuffer::resize(std::size_t capacity) {
  std::unique_ptr<char[]> bytes(new char[capacity]);
  std::memcpy(bytes.get(), bytes_.get() + begin_, end_ - begin_);
  bytes_ = std::move(bytes);
  capacity_ = capacity;
  end_ -= begin_;
  begin_ = 0;
}

// A read that filled all its space says that there is more: read more at a time. Space that
// nobody fills is given back, so that thousands of idle connections cost little.
void ReceiveBuffer::adapt() {
  if (capacity_ > keep_) {
    resize(initial_);
  } else if (arrived_ == offered_ && offered_ != 0 && capacity_ < kReadAhead) {
    resize(capacity_ * 2);
  } else if (arrived_ < capacity_ / 8 && capacity_ > initial_) {
    resize(std::max(initial_, capacity_ / 2));
  }
}

asio::mutable_buffer ReceiveBuffer::prepare(std::size_t wanted) {
  if (empty()) {
    begin_ = end_ = 0;
    adapt();
  } else if (begin_ > 0 && (capacity_ - end_ < capacity_ / 4 || wanted > capacity_ - begin_)) {
    std::memmove(bytes_.get(), bytes_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (end_ == capacity_) {
    // Four times what has arrived, at most: a length field alone costs nothing.
    resize(std::clamp(wanted, capacity_ * 2, capacity_ * 4));
  }
  offered_ = capacity_ - end_;
  return {bytes_.get() + end_, offered_};
}

std::string& OutQueue::text() {
  const bool fresh = segments_.empty() || segments_.back().owner ||
                     (segments_.back().text.size() >= kTextSegment && !frame_open_);
  if (fresh) segments_.emplace_back();
  return segments_.back().text;
}

void OutQueue::append(std::string_view bytes) {
  text().append(bytes);
  size_ += bytes.size();
}

void OutQueue::append_shared(std::shared_ptr<const void> owner, std::string_view bytes) {
  invariant(!frame_open_, "shared bytes inside an open frame");
  size_ += bytes.size();
  segments_.push_back({{}, std::move(owner), bytes});
}

void OutQueue::begin_frame() {
  invariant(!frame_open_, "a frame inside a frame");
  auto& bytes = text();
  frame_at_ = bytes.size();
  bytes.append(sizeof(FrameHeader), '\0');
  size_ += sizeof(FrameHeader);
  frame_open_ = true;
}

void OutQueue::end_frame(FrameKind kind, std::size_t extra) {
  invariant(frame_open_, "the end of a frame that was not begun");
  seal_frame(segments_.back().text, frame_at_, kind, extra);
  frame_open_ = false;
}

std::size_t OutQueue::frame_size() const {
  return frame_open_ ? segments_.back().text.size() - frame_at_ : 0;
}

std::size_t OutQueue::gather(std::vector<asio::const_buffer>& buffers) const {
  invariant(!frame_open_, "an unfinished frame is written");
  buffers.clear();
  std::size_t total = 0;
  std::size_t skip = head_;
  for (const auto& segment : segments_) {
    if (buffers.size() == kMaxPieces) break;
    const auto bytes = segment.bytes().substr(skip);
    skip = 0;
    if (bytes.empty()) continue;
    buffers.emplace_back(bytes.data(), bytes.size());
    total += bytes.size();
  }
  return total;
}

void OutQueue::written(std::size_t size) {
  invariant(size <= size_, "more bytes written than queued");
  size_ -= size;
  while (!segments_.empty()) {
    auto& front = segments_.front();
    const auto left = front.bytes().size() - head_;
    if (size < left) {
      head_ += size;
      return;
    }
    size -= left;
    head_ = 0;
    // The last text keeps its memory for the next replies.
    if (segments_.size() == 1 && !front.owner && front.text.capacity() <= kTextKept) {
      front.text.clear();
      return;
    }
    segments_.pop_front();
  }
}

}  // namespace mpaxos
