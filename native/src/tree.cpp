#include "tree.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "checksum.hpp"
#include "error.hpp"

namespace mpaxos {
namespace {

constexpr std::uint64_t kBranchTag = 1;  // references to branches are odd
constexpr std::size_t kRootFields = 3 * sizeof(std::uint64_t);  // tree, count, seal
constexpr int kMaxDepth = 9 * (kMaxKey + 1) + 1;

std::uint32_t crc_of(const Leaf& leaf) {
  const std::uint32_t lengths[2] = {leaf.key_length, leaf.value_length};
  const auto crc = crc32c({reinterpret_cast<const char*>(lengths), sizeof lengths});
  return crc32c({reinterpret_cast<const char*>(&leaf + 1),
                 std::size_t{leaf.key_length} + leaf.value_length},
                crc);
}

std::uint64_t seal_of(const Branch& branch) {
  return sealed(branch.child[0], branch.child[1],
                std::uint64_t{branch.byte} << 32 | branch.bit);
}

[[noreturn]] void damaged(const char* what) {
  throw Error(ErrorKind::kStorageCorrupt,
              std::string("the state in the pool is damaged: ") + what +
                  ". The replica does not go on with it; restore it from a good copy");
}

PMEMoid oid_of(PMEMobjpool* pool, const void* data) {
  invariant(pmemobj_pool_by_ptr(data) == pool, "an object outside the pool");
  return pmemobj_oid(data);
}

}  // namespace

std::uint64_t seal_of(const ContainerRoot& root) {
  const auto seal = [](const ContainerRoot& of) {
    return sealed(of.tree, of.count, digest64({of.name, sizeof of.name}));
  };
  static const auto unused = seal(ContainerRoot{});
  return seal(root) ^ unused;  // so that the seal of zeroed memory is 0, as it is
}

std::string_view Leaf::key() const {
  return {reinterpret_cast<const char*>(this + 1), key_length};
}

std::string_view Leaf::value() const {
  return {reinterpret_cast<const char*>(this + 1) + key_length, value_length};
}

std::uint32_t Tree::direction(std::string_view key, std::uint32_t byte, std::uint32_t bit) {
  if (byte >= key.size()) return 0;
  if (bit == 0) return 1;
  return static_cast<std::uint8_t>(key[byte]) >> (8 - bit) & 1U;
}

std::optional<Tree::Difference> Tree::compare(std::string_view a, std::string_view b) {
  const auto shared = std::min(a.size(), b.size());
  const auto [at, _] = std::mismatch(a.begin(), a.begin() + static_cast<long>(shared), b.begin());
  const auto byte = static_cast<std::uint32_t>(at - a.begin());
  if (byte == shared) {
    if (a.size() == b.size()) return std::nullopt;
    return Difference{byte, 0};
  }
  const auto x = static_cast<std::uint8_t>(a[byte] ^ b[byte]);
  return Difference{byte, static_cast<std::uint32_t>(std::countl_zero(x)) + 1};
}

const Leaf* Tree::leaf_at(std::uint64_t reference) const {
  const auto size = pool_->size();
  if (reference % 8 != 0 || reference == 0 || reference > size - sizeof(Leaf)) {
    damaged("a reference to an item leads outside");
  }
  const auto* leaf = reinterpret_cast<const Leaf*>(base() + reference);
  const auto need = sizeof(Leaf) + std::uint64_t{leaf->key_length} + leaf->value_capacity;
  if (leaf->key_length > kMaxKey || leaf->value_length > leaf->value_capacity ||
      need > size - reference) {
    damaged("an item's lengths are impossible");
  }
  return leaf;
}

Branch* Tree::branch_at(std::uint64_t reference) const {
  const auto offset = reference - kBranchTag;
  if (offset % 8 != 0 || offset == 0 || offset > pool_->size() - sizeof(Branch)) {
    damaged("a reference inside the tree leads outside");
  }
  auto* branch = reinterpret_cast<Branch*>(base() + offset);
  if (branch->seal != seal_of(*branch)) damaged("a branch does not match its checksum");
  return branch;
}

void Tree::verify(const Leaf& leaf) const {
  if (leaf.crc != crc_of(leaf)) damaged("an item does not match its checksum");
}

// The only item that can have `key`, if any has.
std::uint64_t Tree::nearest(std::string_view key) const {
  auto reference = root_->tree;
  for (int depth = 0; reference & kBranchTag; ++depth) {
    if (depth > kMaxDepth) damaged("the tree has a cycle");
    const auto* branch = branch_at(reference);
    reference = branch->child[direction(key, branch->byte, branch->bit)];
  }
  return reference;
}

void Tree::check_root() const {
  if (root_->seal != seal_of(*root_)) damaged("a container does not match its checksum");
}

const Leaf* Tree::find(std::string_view key) const {
  check_root();
  if (root_->tree == 0) return nullptr;
  const auto* leaf = leaf_at(nearest(key));
  if (leaf->key() != key) return nullptr;
  verify(*leaf);
  return leaf;
}

std::uint64_t Tree::new_leaf(Transaction& tx, std::string_view key, std::string_view value) {
  const auto capacity = (value.size() + 15) / 16 * 16;
  const auto oid = tx.allocate(sizeof(Leaf) + key.size() + capacity);
  auto* leaf = static_cast<Leaf*>(pmemobj_direct(oid));
  leaf->key_length = static_cast<std::uint32_t>(key.size());
  leaf->value_length = static_cast<std::uint32_t>(value.size());
  leaf->value_capacity = static_cast<std::uint32_t>(capacity);
  auto* bytes = reinterpret_cast<char*>(leaf + 1);
  std::memcpy(bytes, key.data(), key.size());
  std::memcpy(bytes + key.size(), value.data(), value.size());
  leaf->crc = crc_of(*leaf);
  return offset_of(leaf);
}

void Tree::overwrite(Transaction& tx, Leaf* leaf, std::string_view value) {
  const auto longer = std::max<std::size_t>(leaf->value_length, value.size());
  tx.add(leaf, sizeof(Leaf) + leaf->key_length + longer);
  leaf->value_length = static_cast<std::uint32_t>(value.size());
  std::memcpy(reinterpret_cast<char*>(leaf + 1) + leaf->key_length, value.data(), value.size());
  leaf->crc = crc_of(*leaf);
}

// Where `leaf` hangs, and in `parent` where the branch above it does.
Tree::Place Tree::place_of(const Leaf* leaf, Place& parent) const {
  Place place{nullptr, 0};
  parent = place;
  for (int depth = 0; at(place) & kBranchTag; ++depth) {
    if (depth > kMaxDepth) damaged("the tree has a cycle");
    auto* branch = branch_at(at(place));
    parent = place;
    place = {branch, direction(leaf->key(), branch->byte, branch->bit)};
  }
  invariant(at(place) == offset_of(leaf), "an item is not where its key leads");
  return place;
}

void Tree::point(Transaction& tx, Place place, std::uint64_t reference) {
  if (place.branch == nullptr) {
    tx.add(&root_->tree, kRootFields);
    root_->tree = reference;
    root_->seal = seal_of(*root_);
  } else {
    tx.add(place.branch, sizeof *place.branch);
    place.branch->child[place.side] = reference;
    place.branch->seal = seal_of(*place.branch);
  }
}

void Tree::recount(Transaction& tx, std::uint64_t count) {
  tx.add(&root_->tree, kRootFields);
  root_->count = count;
  root_->seal = seal_of(*root_);
}

void Tree::put(Transaction& tx, const Leaf* found, std::string_view key, std::string_view value) {
  if (watchers_ != nullptr && watchers_->any()) watchers_->item(*root_, key, found, value);
  if (found != nullptr) {
    const auto capacity = found->value_capacity;
    if (value.size() <= capacity && capacity <= 4 * value.size() + 64) {
      overwrite(tx, const_cast<Leaf*>(found), value);
      return;
    }
    Place parent;
    const auto place = place_of(found, parent);
    point(tx, place, new_leaf(tx, key, value));
    tx.release(oid_of(pool_->handle(), found));
    return;
  }
  check_root();
  recount(tx, root_->count + 1);
  const auto leaf = new_leaf(tx, key, value);
  Place place{nullptr, 0};
  if (root_->tree == 0) return point(tx, place, leaf);
  const auto difference = compare(key, leaf_at(nearest(key))->key());
  invariant(difference.has_value(), "an item is inserted twice");
  while (at(place) & kBranchTag) {
    auto* branch = branch_at(at(place));
    if (std::pair(branch->byte, branch->bit) > std::pair(difference->byte, difference->bit)) break;
    place = {branch, direction(key, branch->byte, branch->bit)};
  }
  auto* branch = static_cast<Branch*>(pmemobj_direct(tx.allocate(sizeof(Branch))));
  const auto side = direction(key, difference->byte, difference->bit);
  branch->child[side] = leaf;
  branch->child[1 - side] = at(place);
  branch->byte = difference->byte;
  branch->bit = difference->bit;
  branch->seal = seal_of(*branch);
  point(tx, place, offset_of(branch) | kBranchTag);
}

void Tree::erase(Transaction& tx, const Leaf* found) {
  if (watchers_ != nullptr && watchers_->any()) {
    watchers_->item(*root_, found->key(), found, std::nullopt);
  }
  Place parent;
  const auto place = place_of(found, parent);
  recount(tx, root_->count - 1);
  if (place.branch == nullptr) {
    point(tx, place, 0);
  } else {
    point(tx, parent, place.branch->child[1 - place.side]);
    tx.release(oid_of(pool_->handle(), place.branch));
  }
  tx.release(oid_of(pool_->handle(), found));
}

Tree::Cursor::Cursor(const Tree& tree, std::string_view start) : tree_(tree) {
  tree.check_root();
  auto reference = tree.root_->tree;
  if (reference == 0) return;
  const auto difference = compare(start, tree.leaf_at(tree.nearest(start))->key());
  while (reference & kBranchTag) {
    const auto* branch = tree.branch_at(reference);
    if (difference &&
        std::pair(branch->byte, branch->bit) > std::pair(difference->byte, difference->bit)) {
      break;
    }
    const auto side = direction(start, branch->byte, branch->bit);
    if (side == 0) right_.push_back(branch->child[1]);
    reference = branch->child[side];
  }
  // Everything below `reference` differs from `start` at one and the same place.
  if (!difference || direction(start, difference->byte, difference->bit) == 0) {
    right_.push_back(reference);
  }
}

const Leaf* Tree::Cursor::next() {
  if (right_.empty()) return nullptr;
  auto reference = right_.back();
  right_.pop_back();
  while (reference & kBranchTag) {
    if (right_.size() > static_cast<std::size_t>(kMaxDepth)) damaged("the tree has a cycle");
    const auto* branch = tree_.branch_at(reference);
    right_.push_back(branch->child[1]);
    reference = branch->child[0];
  }
  const auto* leaf = tree_.leaf_at(reference);
  tree_.verify(*leaf);
  return leaf;
}

}  // namespace mpaxos
