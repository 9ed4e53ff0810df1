// What changed behind the cursor of an image's sweep, and has to be sent again.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checksum.hpp"
#include "pool.hpp"

namespace mpaxos {

// What sending costs, in bytes and what takes about as long: it bounds the time of one call.
inline constexpr std::size_t kSweepCost = 64;   // of an item in order
inline constexpr std::size_t kDirtyCost = 256;  // of one that has to be looked up

// Each item and each reply counts once, however often it changes.
class DirtySet {
 public:
  struct Session {
    bool itself = false;               // opened, closed, or used without storing a reply
    std::vector<std::uint64_t> cells;  // one bit each
    std::uint64_t cost = 0;
  };

  void item(std::uint32_t container, std::string_view key, std::size_t value_size);
  // The session at `place` was opened, closed or touched.
  void session(std::uint32_t place);
  void cell(std::uint32_t place, std::uint32_t cell, std::size_t reply_size);

  // Some key of the container that is to be sent; nullptr: none.
  const std::string* first_item(std::uint32_t container) const;
  void drop_first_item(std::uint32_t container);
  // Some session that is to be sent; nullptr: none.
  Session* first_session(std::uint32_t& place);
  void drop_first_session();

  bool empty() const { return count_ == 0 && sessions_.empty(); }
  std::uint64_t count() const { return count_ + sessions_.size(); }
  std::uint64_t cost() const { return cost_; }      // of sending all of it, at most
  std::uint64_t memory() const { return memory_; }  // bytes that it takes, about
  void clear();

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view key) const { return digest64(key); }
  };
  using Items = std::unordered_map<std::string, std::uint64_t, Hash, std::equal_to<>>;

  Session& session_at(std::uint32_t place);
  static std::uint64_t memory_of(std::string_view key) { return 96 + key.size(); }

  std::array<Items, kMaxContainers> items_;
  std::unordered_map<std::uint32_t, Session> sessions_;
  std::uint64_t count_ = 0;
  std::uint64_t cost_ = 0;
  std::uint64_t memory_ = 0;
};

}  // namespace mpaxos
