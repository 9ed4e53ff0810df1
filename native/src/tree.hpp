// A persistent ordered map of byte strings: a crit-bit (PATRICIA) tree. See D. J. Bernstein,
// "Crit-bit trees", and D. R. Morrison, "PATRICIA" (JACM 1968).
//
// Why this one: it never pauses to resize, inserting or deleting swaps one pointer, and its shape
// depends on the keys alone, so iteration is the same on every replica whatever its history.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "image_watch.hpp"
#include "pool.hpp"
#include "tx.hpp"

namespace mpaxos {

// A key and its value inside the pool; followed by the key's bytes and room for the value's.
struct Leaf {
  std::uint32_t key_length;
  std::uint32_t value_length;
  std::uint32_t value_capacity;
  std::uint32_t crc;  // CRC-32C over the three above, key and value

  std::string_view key() const;
  std::string_view value() const;
  std::size_t size() const { return sizeof *this + key_length + value_length; }

  // The header of a new item; key and value follow it.
  static Leaf of(std::string_view key, std::string_view value);
  // The room that a new item has for values.
  static std::size_t capacity_for(std::size_t value_size) { return (value_size + 15) / 16 * 16; }
  // The checksum that a new item with this key and value has: the same whatever room this one has.
  std::uint32_t crc_when_new() const;
};
static_assert(sizeof(Leaf) == 16);

// Where two keys below this node first differ. Keys are compared as sequences of 9-bit symbols:
// a bit that says "there is a byte", then the byte; so a prefix comes before its extensions.
struct Branch {
  std::uint64_t child[2];
  std::uint32_t byte;
  std::uint32_t bit;  // 0: the "there is a byte" bit; 1 to 8: the byte's bits, highest first
  std::uint64_t check;  // XXH3 of all before: a wrong turn would make items vanish
};
static_assert(sizeof(Branch) == kBranchSize);

inline constexpr std::uint32_t kMaxKey = 64 << 10;
inline constexpr std::uint64_t kBranchTag = 1;  // references to branches are odd

// What ContainerRoot::check and Branch::check must be.
std::uint64_t container_check(const ContainerRoot& root);
std::uint64_t branch_check(const Branch& branch);

// The map of one container. All references into the pool are checked before they are followed:
// a damaged pool ends in Error(kStorageCorrupt), not in a wild pointer.
class Tree {
 public:
  // `watchers` are told of every change.
  Tree(Pool& pool, ContainerRoot& root, const Watchers* watchers = nullptr)
      : pool_(&pool),
        base_(reinterpret_cast<char*>(pool.handle())),
        size_(pool.size()),
        root_(&root),
        watchers_(watchers) {}

  // The item of `key`, its checksum verified; nullptr when there is none. Valid until a change.
  const Leaf* find(std::string_view key) const { return find_from(nearest(key), key); }

  // A key on its way to its item, or to nullptr.
  struct Search {
    std::string_view key;
    std::uint64_t reference = 0;
    const Leaf* leaf = nullptr;
  };
  // find() for all of them. They go down side by side: each step of each is a cache miss as a
  // rule, and these then wait for memory together.
  void find_all(std::vector<Search>& searches) const;

  // Inserts or replaces. `found` is what find(key) returned just before.
  void put(Transaction& tx, const Leaf* found, std::string_view key, std::string_view value);

  // Whether put() would overwrite `found` where it is.
  static bool fits(const Leaf& found, std::size_t value_size) {
    return value_size <= found.value_capacity && found.value_capacity <= 4 * value_size + 64;
  }

  // Removes; `found` must be what find(key) returned, not nullptr.
  void erase(Transaction& tx, const Leaf* found);

  std::uint64_t count() const { return root_->count; }

  // Walks items in key order from the first one that is not below `start`. With `ahead`, for walks
  // over many items: the way to so many is looked for together, and so they wait for memory.
  class Cursor {
   public:
    Cursor(const Tree& tree, std::string_view start, std::size_t ahead = 0);
    const Leaf* next();  // nullptr at the end

   private:
    void look_ahead();
    const Tree& tree_;
    const Leaf* last_ = nullptr;
    std::vector<std::uint64_t> right_;  // subtrees still to be walked, the next one last
    std::size_t ahead_;
    std::vector<std::uint64_t> near_, nearer_;  // of look_ahead(): the next subtrees, in order
  };

 private:
  friend class Cursor;
  friend class TreeAppender;
  friend class Packer;
  struct Difference {
    std::uint32_t byte;
    std::uint32_t bit;
  };

  // A pointer of the tree: of the branch `owner`, or of the container when that is null.
  struct Place {
    Branch* owner;
    std::uint64_t* slot;
  };

  const Leaf* leaf_at(std::uint64_t reference) const;
  Branch* branch_at(std::uint64_t reference) const;
  void will_read(std::uint64_t reference) const;
  void will_read_all(std::uint64_t reference) const;
  void verify(const Leaf& leaf) const;
  static void verify(const Branch& branch);
  void verify_absence(std::string_view key) const;
  std::uint64_t nearest(std::string_view key) const;
  const Leaf* find_from(std::uint64_t reference, std::string_view key) const;
  // The branches on the way to the last item, the highest one first, and that item (nullptr: there
  // is none), all of them checked.
  std::pair<std::vector<Branch*>, const Leaf*> right_edge() const;
  std::uint64_t new_leaf(Transaction& tx, std::string_view key, std::string_view value);
  static std::size_t leaf_size(std::string_view key, std::string_view value);
  void overwrite(Transaction& tx, Leaf* leaf, std::string_view value);
  std::pair<Place, Place> places_of(const Leaf* leaf) const;
  void redirect(Transaction& tx, const Place& place, std::uint64_t reference);
  void count_items(Transaction& tx, std::uint64_t count);
  char* base() const { return base_; }
  std::uint64_t offset_of(const void* data) const {
    return static_cast<std::uint64_t>(static_cast<const char*>(data) - base());
  }

  static std::uint32_t direction(std::string_view key, std::uint32_t byte, std::uint32_t bit);
  static std::optional<Difference> compare(std::string_view a, std::string_view b);

  Pool* pool_;
  char* base_;  // of the pool: it stays where it is while it is open
  std::uint64_t size_;
  ContainerRoot* root_;
  const Watchers* watchers_;
};

}  // namespace mpaxos
