#include "steady_messages.hpp"

#include <algorithm>

namespace mpaxos {
namespace {

constexpr std::uint64_t kHighest = std::uint64_t{1} << 62;  // beyond: for Python to judge
constexpr std::size_t kMostSlots = 2048;

// -- writing --------------------------------------------------------------------------------------

void put_big_endian(std::string& out, std::uint64_t value, int bytes) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>(value >> shift));
  }
}

void put_uint(std::string& out, std::uint64_t value) {
  if (value < 0x80) {
    out.push_back(static_cast<char>(value));
  } else if (value <= 0xff) {
    out.push_back('\xcc');
    put_big_endian(out, value, 1);
  } else if (value <= 0xffff) {
    out.push_back('\xcd');
    put_big_endian(out, value, 2);
  } else if (value <= 0xffff'ffff) {
    out.push_back('\xce');
    put_big_endian(out, value, 4);
  } else {
    out.push_back('\xcf');
    put_big_endian(out, value, 8);
  }
}

void put_array(std::string& out, std::size_t size) {  // fewer than 16
  out.push_back(static_cast<char>(0x90 | size));
}

void put_head(std::string& out, std::size_t fields, std::string_view tag) {
  put_array(out, fields);
  out.push_back(static_cast<char>(0xa0 | tag.size()));
  out.append(tag);
}

void put_pair(std::string& out, std::uint64_t first, std::uint64_t second) {
  put_array(out, 2);
  put_uint(out, first);
  put_uint(out, second);
}

// -- reading --------------------------------------------------------------------------------------

class Reader {
 public:
  explicit Reader(std::string_view data) : rest_(data) {}

  bool array(std::size_t& size) {
    std::uint8_t byte = 0;
    if (!next(byte)) return false;
    if ((byte & 0xf0) == 0x90) {
      size = byte & 0x0f;
      return true;
    }
    std::uint64_t value = 0;
    if (byte != 0xdc || !big_endian(2, value)) return false;
    size = value;
    return true;
  }
  bool array_of(std::size_t wanted) {
    std::size_t size = 0;
    return array(size) && size == wanted;
  }
  bool tag(std::string_view& text) {
    std::uint8_t byte = 0;
    if (!next(byte) || (byte & 0xe0) != 0xa0) return false;
    const std::size_t size = byte & 0x1f;
    if (rest_.size() < size) return false;
    text = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return true;
  }
  bool uint(std::uint64_t& value) {
    std::uint8_t byte = 0;
    if (!next(byte)) return false;
    if (byte < 0x80) {
      value = byte;
      return true;
    }
    return byte >= 0xcc && byte <= 0xcf && big_endian(1 << (byte - 0xcc), value);
  }
  bool boolean(bool& value) {
    std::uint8_t byte = 0;
    if (!next(byte) || (byte != 0xc2 && byte != 0xc3)) return false;
    value = byte == 0xc3;
    return true;
  }
  // Below the highest number that a slot or a round can be.
  bool number(std::uint64_t& value) { return uint(value) && value < kHighest; }
  bool ballot(Incoming& into) {
    return array_of(2) && number(into.round) && uint(into.leader) && into.leader < kMaxReplicas;
  }
  bool mark(SlotMark& into) { return array_of(2) && number(into.slot) && uint(into.digest); }
  bool empty() const { return rest_.empty(); }

 private:
  bool next(std::uint8_t& byte) {
    if (rest_.empty()) return false;
    byte = static_cast<std::uint8_t>(rest_.front());
    rest_.remove_prefix(1);
    return true;
  }
  bool big_endian(int bytes, std::uint64_t& value) {
    if (rest_.size() < static_cast<std::size_t>(bytes)) return false;
    value = 0;
    for (int i = 0; i < bytes; ++i) value = value << 8 | static_cast<std::uint8_t>(rest_[i]);
    rest_.remove_prefix(bytes);
    return true;
  }
  std::string_view rest_;
};

bool read_accept(Reader& in, Incoming& into) {
  into.letter.kind = LetterKind::kAccept;
  return in.ballot(into) && in.number(into.letter.slot) && in.number(into.letter.decided) &&
         in.array_of(0) && in.boolean(into.vote);
}

bool read_accepted(Reader& in, Incoming& into) {
  into.letter.kind = LetterKind::kAccepted;
  std::size_t size = 0;
  if (!in.ballot(into) || !in.array(size) || size > kMostSlots) return false;
  into.slots.resize(size);
  const auto read = [&](std::uint64_t& slot) { return in.number(slot); };
  return std::all_of(into.slots.begin(), into.slots.end(), read) &&
         in.number(into.letter.applied);
}

bool read_beat(Reader& in, Incoming& into, LetterKind kind) {
  into.letter.kind = kind;
  return in.ballot(into) && in.number(into.letter.slot) && in.number(into.letter.decided) &&
         in.number(into.letter.applied) && in.mark(into.letter.mark);
}

}  // namespace

void encode_letter(std::string& out, const Letter& letter, std::uint64_t round,
                   std::uint64_t leader) {
  switch (letter.kind) {
    case LetterKind::kAccept:
      put_head(out, 6, "accept");
      put_pair(out, round, leader);
      put_uint(out, letter.slot);
      put_uint(out, letter.decided);
      put_array(out, 0);
      out.push_back('\xc3');
      return;
    case LetterKind::kAccepted:
      put_head(out, 4, "accepted");
      put_pair(out, round, leader);
      put_array(out, 1);
      put_uint(out, letter.slot);
      put_uint(out, letter.applied);
      return;
    case LetterKind::kForward:
      put_head(out, 2, "forward");
      put_array(out, 0);
      return;
    case LetterKind::kHeartbeat:
    case LetterKind::kAlive:
      put_head(out, 6, letter.kind == LetterKind::kAlive ? "alive" : "heartbeat");
      put_pair(out, round, leader);
      put_uint(out, letter.slot);
      put_uint(out, letter.decided);
      put_uint(out, letter.applied);
      put_pair(out, letter.mark.slot, letter.mark.digest);
      return;
  }
}

bool decode_letter(std::string_view control, std::size_t values, Incoming& into) {
  Reader in(control);
  std::size_t fields = 0;
  std::string_view tag;
  if (!in.array(fields) || !in.tag(tag)) return false;
  if (tag == "accept") {
    return fields == 6 && values == 1 && read_accept(in, into) && in.empty();
  }
  if (tag == "forward") {
    into.letter.kind = LetterKind::kForward;
    return fields == 2 && values >= 1 && in.array_of(0) && in.empty();
  }
  if (values != 0) return false;
  if (tag == "accepted") return fields == 4 && read_accepted(in, into) && in.empty();
  if (tag == "heartbeat") {
    return fields == 6 && read_beat(in, into, LetterKind::kHeartbeat) && in.empty();
  }
  return tag == "alive" && fields == 6 && read_beat(in, into, LetterKind::kAlive) && in.empty();
}

}  // namespace mpaxos
