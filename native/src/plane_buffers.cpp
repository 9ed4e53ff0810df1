#include "plane_buffers.hpp"

#include <algorithm>
#include <cstring>

#include "error.hpp"

namespace mpaxos {
namespace {

constexpr std::size_t kReadAhead = 64 * 1024;     // a busy connection's buffer grows up to this
constexpr std::size_t kRetained = 128 * 1024;     // less is copied rather than kept where it is
constexpr std::size_t kTextSegment = 64 * 1024;   // then a new segment is begun
constexpr std::size_t kTextKept = 256 * 1024;     // memory an idle connection keeps for writing

}  // namespace

ReceiveBuffer::ReceiveBuffer(std::size_t initial, std::size_t keep, std::size_t ahead)
    : bytes_(new char[initial]),
      capacity_(initial),
      initial_(initial),
      keep_(keep),
      ahead_(ahead) {}

SharedBytes ReceiveBuffer::retain(std::string_view bytes) {
  if (bytes.size() < kRetained || bytes.size() < capacity_ / 2) {
    return SharedBytes::of(std::string(bytes));
  }
  retained_ = true;
  return {bytes_, bytes};
}

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
  std::shared_ptr<char[]> bytes(new char[capacity]);
  std::memcpy(bytes.get(), bytes_.get() + begin_, end_ - begin_);
  bytes_ = std::move(bytes);
  capacity_ = capacity;
  end_ -= begin_;
  begin_ = 0;
  retained_ = false;
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
  if (retained_) {
    // What comes next is probably as large.
    resize(capacity_ <= keep_ ? capacity_ : std::max(initial_, end_ - begin_));
  } else if (empty()) {
    begin_ = end_ = 0;
    adapt();
  } else if (begin_ > 0 && (capacity_ - end_ < capacity_ / 4 || wanted > capacity_ - begin_)) {
    std::memmove(bytes_.get(), bytes_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  if (end_ == capacity_) {
    // A length field alone costs little. Frames of one kind differ a little in size, and a buffer
    // may serve for the next one.
    resize(std::clamp(wanted + wanted / 16, capacity_ * 2, capacity_ * ahead_));
  }
  offered_ = capacity_ - end_;
  // Of a large frame no more than it has, so that what follows need not be moved out of its way.
  if (wanted >= kRetained) offered_ = std::min(offered_, wanted - (end_ - begin_));
  return {bytes_.get() + end_, offered_};
}

std::string& OutQueue::text() {
  const bool fresh = segments_.empty() || segments_.back().shared.owner ||
                     (segments_.back().text.size() >= kTextSegment && !frame_open_);
  if (fresh) segments_.emplace_back();
  return segments_.back().text;
}

void OutQueue::append(std::string_view bytes) {
  text().append(bytes);
  size_ += bytes.size();
}

void OutQueue::append_shared(SharedBytes shared) {
  invariant(!frame_open_, "shared bytes inside an open frame");
  size_ += shared.bytes.size();
  segments_.push_back({{}, std::move(shared)});
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
    if (segments_.size() == 1 && !front.shared.owner && front.text.capacity() <= kTextKept) {
      front.text.clear();
      return;
    }
    segments_.pop_front();
  }
}

}  // namespace mpaxos
