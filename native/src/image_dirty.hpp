// What changed behind the cursor of an image's sweep, and has to be sent again.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "checksum.hpp"
#include "pool.hpp"

namespace mpaxos {

// What sending costs, in bytes and what takes about as long: it bounds the time of one call.
inline constexpr std::size_t kSweepCost = 64;   // of an item in order
inline constexpr std::size_t kDirtyCost = 640;  // of one that has to be looked up: cache misses
inline constexpr std::size_t kReplyCost = 128;  // of a reply of a session

// Each item and each reply counts once, however often it changes. It is sent in passes: what
// changes again after it was sent waits until all else has been sent, so a few busy items do not
// take the place of the others.
class DirtySet {
 public:
  struct Session {
    bool has(std::uint32_t cell) const;

    bool itself = false;               // opened, closed, or used without storing a reply
    std::vector<std::uint64_t> cells;  // one bit each
    std::uint64_t cost = 0;
  };

  void item(std::uint32_t container, std::string_view key, std::size_t value_size);
  // The session at `place` was opened or closed (`replaced`), or touched.
  void session(std::uint32_t place, bool replaced);
  void cell(std::uint32_t place, std::uint32_t cell, std::size_t reply_size);

  // An item that is to be sent, and after the cut its value at the cut if it changed since.
  struct Item {
    std::uint64_t cost = 0;
    bool saved = false;
    std::optional<std::string> value;  // nothing: it is to be removed
  };
  // Some item that is to be sent, in this pass; nullptr: none.
  const std::pair<const std::string, Item>* first_item(std::uint32_t& container);
  void drop_first_item(std::uint32_t container);
  // Some session that is to be sent, in this pass; nullptr: none.
  Session* first_session(std::uint32_t& place);
  void drop_first_session();
  bool pass_over() const { return now_.count() == 0; }
  bool sessions_over() const { return now_.sessions.empty(); }
  // Sends in the next pass what changed in this one, which is over.
  void begin_pass() { std::swap(now_, later_); }
  // After the cut: the item becomes another one, and this value is still to be sent if any is.
  void save(std::uint32_t container, std::string_view key, std::optional<std::string_view> value);

  bool empty() const { return count() == 0; }
  std::uint64_t count() const { return now_.count() + later_.count(); }
  std::uint64_t cost() const { return cost_; }      // of sending all of it, at most
  std::uint64_t memory() const { return memory_; }  // bytes that it takes, about
  void clear();

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view key) const { return digest64(key); }
  };
  using Items = std::unordered_map<std::string, Item, Hash, std::equal_to<>>;

  struct Pass {
    std::array<Items, kMaxContainers> items;
    std::uint64_t item_count = 0;
    std::unordered_map<std::uint32_t, Session> sessions;
    std::uint64_t count() const { return item_count + sessions.size(); }
  };

  Session* now_at(std::uint32_t place);
  Session& later_at(std::uint32_t place);
  static std::uint64_t memory_of(std::string_view key) { return 144 + key.size(); }

  Pass now_;    // being sent
  Pass later_;  // changed since this pass began, and not to be sent in it anyway
  std::uint64_t cost_ = 0;
  std::uint64_t memory_ = 0;
};

}  // namespace mpaxos
