// Replies on their way from the engine to the clients connected to this replica.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mpaxos {

// One reply; for a session's opening `session` is 0 and `sequence` the connection's token.
struct Reply {
  std::uint64_t session;
  std::uint64_t sequence;
  std::uint8_t status;
  std::string_view payload;
};

// All payloads lie in one buffer: no allocation per reply once it has grown.
class ReplySet {
 public:
  void add(std::uint64_t session, std::uint64_t sequence, std::uint8_t status,
           std::string_view payload) {
    items_.push_back({session, sequence, status, bytes_.size(), payload.size()});
    bytes_.append(payload);
  }
  // So many are to come.
  void expect(std::size_t count) { items_.reserve(count); }
  std::size_t size() const { return items_.size(); }
  Reply at(std::size_t i) const {
    const auto& item = items_[i];
    return {item.session, item.sequence, item.status,
            std::string_view(bytes_).substr(item.offset, item.length)};
  }

 private:
  struct Item {
    std::uint64_t session;
    std::uint64_t sequence;
    std::uint8_t status;
    std::size_t offset;
    std::size_t length;
  };
  std::vector<Item> items_;
  std::string bytes_;
};

}  // namespace mpaxos
