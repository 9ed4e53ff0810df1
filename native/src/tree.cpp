#include "tree.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "checksum.hpp"
#include "error.hpp"

namespace mpaxos {
namespace {

constexpr int kMaxDepth = 9 * (kMaxKey + 1) + 1;
// tree, count and check; the name stays.
constexpr std::size_t kRootChanges =
    offsetof(ContainerRoot, check) + sizeof(ContainerRoot::check) - offsetof(ContainerRoot, tree);

std::uint32_t crc_of(const Leaf& leaf) {
  const std::uint32_t lengths[3] = {leaf.key_length, leaf.value_length, leaf.value_capacity};
  const auto crc = crc32c({reinterpret_cast<const char*>(lengths), sizeof lengths});
  return crc32c({reinterpret_cast<const char*>(&leaf + 1),
                 std::size_t{leaf.key_length} + leaf.value_length},
                crc);
}

[[noreturn]] void damaged(const char* what) {
  throw Error(ErrorKind::kStorageCorrupt,
              std::string("the state in the pool is damaged: ") + what +
                  ". The replica does not go on with it; restore it from a good copy");
}

std::uint64_t check_of(const Branch& branch) { return branch_check(branch); }

// Whether `a` decides on an earlier part of a key than `b`, as a branch above another one does.
bool above(const Branch& a, const Branch& b) {
  return std::pair(a.byte, a.bit) < std::pair(b.byte, b.bit);
}

std::uint64_t check_of(const ContainerRoot& root) { return container_check(root); }

PMEMoid oid_of(PMEMobjpool* pool, const void* data) {
  invariant(pmemobj_pool_by_ptr(data) == pool, "an object outside the pool");
  return pmemobj_oid(data);
}

}  // namespace

std::uint64_t container_check(const ContainerRoot& root) {
  const auto digest = [](const ContainerRoot& of) {
    return digest64({reinterpret_cast<const char*>(&of), offsetof(ContainerRoot, check)});
  };
  static const auto unused = digest(ContainerRoot{});
  return digest(root) ^ unused;  // so that zeroed memory is a container without items
}

std::uint64_t branch_check(const Branch& branch) {
  return digest64({reinterpret_cast<const char*>(&branch), offsetof(Branch, check)});
}

std::string_view Leaf::key() const {
  return {reinterpret_cast<const char*>(this + 1), key_length};
}

std::string_view Leaf::value() const {
  return {reinterpret_cast<const char*>(this + 1) + key_length, value_length};
}

Leaf Leaf::of(std::string_view key, std::string_view value) {
  Leaf leaf{static_cast<std::uint32_t>(key.size()), static_cast<std::uint32_t>(value.size()),
            static_cast<std::uint32_t>(capacity_for(value.size())), 0};
  const auto crc = crc32c({reinterpret_cast<const char*>(&leaf), offsetof(Leaf, crc)});
  leaf.crc = crc32c(value, crc32c(key, crc));
  return leaf;
}

std::uint32_t Leaf::crc_when_new() const {
  return value_capacity == capacity_for(value_length) ? crc : of(key(), value()).crc;
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
  if (reference % 8 != 0 || reference == 0 || reference > size_ - sizeof(Leaf)) {
    damaged("a reference to an item leads outside");
  }
  const auto* leaf = reinterpret_cast<const Leaf*>(base() + reference);
  const auto need = sizeof(Leaf) + std::uint64_t{leaf->key_length} + leaf->value_capacity;
  if (leaf->key_length > kMaxKey || leaf->value_length > leaf->value_capacity ||
      need > size_ - reference) {
    damaged("an item's lengths are impossible");
  }
  return leaf;
}

Branch* Tree::branch_at(std::uint64_t reference) const {
  const auto offset = reference - kBranchTag;
  if (offset % 8 != 0 || offset == 0 || offset > size_ - sizeof(Branch)) {
    damaged("a reference inside the tree leads outside");
  }
  auto* branch = reinterpret_cast<Branch*>(base() + offset);
  if (branch->bit > 8 || branch->byte > kMaxKey) damaged("a branch of the tree is impossible");
  return branch;
}

// Only a hint to the processor: what is read there is checked before. Of an item the first lines,
// the processor goes on by itself.
void Tree::will_read(std::uint64_t reference) const {
  const auto* at = base() + (reference & ~kBranchTag);
  __builtin_prefetch(at);
  if (reference & kBranchTag) return;
  for (int line = 1; line < 4; ++line) __builtin_prefetch(at + 64 * line);
}

void Tree::will_read_all(std::uint64_t reference) const {
  constexpr std::size_t kMost = 4096;  // from there on the processor foresees it by itself
  if (reference & kBranchTag) return;
  const auto size = std::min(leaf_at(reference)->size(), kMost);
  for (std::size_t at = 64; at < size; at += 64) __builtin_prefetch(base() + reference + at);
}

void Tree::verify(const Leaf& leaf) const {
  if (leaf.crc != crc_of(leaf)) damaged("an item does not match its checksum");
}

void Tree::verify(const Branch& branch) {
  if (branch.check != check_of(branch)) damaged("a branch does not match its checksum");
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

void Tree::find_all(std::vector<Search>& searches) const {
  for (auto& search : searches) search.reference = root_->tree;
  bool moved = true;
  for (int depth = 0; moved; ++depth) {
    if (depth > kMaxDepth) damaged("the tree has a cycle");
    moved = false;
    for (auto& [key, reference, leaf] : searches) {
      if (!(reference & kBranchTag)) continue;
      const auto* branch = branch_at(reference);
      reference = branch->child[direction(key, branch->byte, branch->bit)];
      will_read(reference);
      moved = true;
    }
  }
  for (auto& search : searches) search.leaf = find_from(search.reference, search.key);
}

// `reference` is that of nearest(key).
const Leaf* Tree::find_from(std::uint64_t reference, std::string_view key) const {
  if (reference == 0) {
    verify_absence(key);
    return nullptr;
  }
  const auto* leaf = leaf_at(reference);
  verify(*leaf);
  if (leaf->key() == key) return leaf;
  verify_absence(key);
  return nullptr;
}

// An item that is found proves itself. That there is none depends on all turns that led to the
// item that was found instead.
void Tree::verify_absence(std::string_view key) const {
  if (root_->check != check_of(*root_)) damaged("a container does not match its checksum");
  auto reference = root_->tree;
  const Branch* before = nullptr;
  while (reference & kBranchTag) {
    const auto* branch = branch_at(reference);
    verify(*branch);
    if (before != nullptr && !above(*before, *branch)) damaged("its branches are out of order");
    before = branch;
    reference = branch->child[direction(key, branch->byte, branch->bit)];
  }
}

std::pair<std::vector<Branch*>, const Leaf*> Tree::right_edge() const {
  if (root_->check != check_of(*root_)) damaged("a container does not match its checksum");
  std::vector<Branch*> edge;
  auto reference = root_->tree;
  if (reference == 0) return {edge, nullptr};
  for (; reference & kBranchTag; reference = edge.back()->child[1]) {
    auto* branch = branch_at(reference);
    verify(*branch);
    if (!edge.empty() && !above(*edge.back(), *branch)) damaged("its branches are out of order");
    edge.push_back(branch);
  }
  const auto* leaf = leaf_at(reference);
  verify(*leaf);
  return {edge, leaf};
}

std::size_t Tree::leaf_size(std::string_view key, std::string_view value) {
  return sizeof(Leaf) + key.size() + Leaf::capacity_for(value.size());
}

std::uint64_t Tree::new_leaf(Transaction& tx, std::string_view key, std::string_view value) {
  const auto size = leaf_size(key, value);
  auto* leaf = static_cast<Leaf*>(pmemobj_direct(tx.allocate(size, allocation_kind(size, size_))));
  *leaf = Leaf::of(key, value);
  auto* bytes = reinterpret_cast<char*>(leaf + 1);
  std::memcpy(bytes, key.data(), key.size());
  std::memcpy(bytes + key.size(), value.data(), value.size());
  return offset_of(leaf);
}

void Tree::overwrite(Transaction& tx, Leaf* leaf, std::string_view value) {
  const auto longer = std::max<std::size_t>(leaf->value_length, value.size());
  tx.add(leaf, sizeof(Leaf) + leaf->key_length + longer);
  leaf->value_length = static_cast<std::uint32_t>(value.size());
  std::memcpy(reinterpret_cast<char*>(leaf + 1) + leaf->key_length, value.data(), value.size());
  leaf->crc = crc_of(*leaf);
  tx.written(leaf, leaf->size());
}

// The pointer that leads to `leaf`, and the one that leads to the branch that has it.
std::pair<Tree::Place, Tree::Place> Tree::places_of(const Leaf* leaf) const {
  Place parent{nullptr, nullptr};
  Place place{nullptr, &root_->tree};
  for (int depth = 0; *place.slot & kBranchTag; ++depth) {
    if (depth > kMaxDepth) damaged("the tree has a cycle");
    auto* branch = branch_at(*place.slot);
    parent = place;
    place = {branch, &branch->child[direction(leaf->key(), branch->byte, branch->bit)]};
  }
  if (*place.slot != offset_of(leaf)) damaged("an item is not where its key leads");
  return {place, parent};
}

void Tree::redirect(Transaction& tx, const Place& place, std::uint64_t reference) {
  if (place.owner == nullptr) {
    tx.add(&root_->tree, kRootChanges);
    root_->tree = reference;
    root_->check = check_of(*root_);
    return;
  }
  tx.add(place.owner, sizeof *place.owner);
  *place.slot = reference;
  place.owner->check = check_of(*place.owner);
}

void Tree::count_items(Transaction& tx, std::uint64_t count) {
  tx.add(&root_->tree, kRootChanges);
  root_->count = count;
  root_->check = check_of(*root_);
}

void Tree::put(Transaction& tx, const Leaf* found, std::string_view key, std::string_view value) {
  if (watchers_ != nullptr && watchers_->any()) watchers_->item(*root_, key, found, value);
  if (found != nullptr) {
    if (fits(*found, value.size())) {
      overwrite(tx, const_cast<Leaf*>(found), value);
      return;
    }
    const auto place = places_of(found).first;
    redirect(tx, place, new_leaf(tx, key, value));
    tx.release(oid_of(pool_->handle(), found));
    return;
  }
  count_items(tx, root_->count + 1);
  const auto leaf = new_leaf(tx, key, value);
  Place place{nullptr, &root_->tree};
  if (*place.slot == 0) return redirect(tx, place, leaf);
  const auto difference = compare(key, leaf_at(nearest(key))->key());
  invariant(difference.has_value(), "an item is inserted twice");
  while (*place.slot & kBranchTag) {
    auto* branch = branch_at(*place.slot);
    if (std::pair(branch->byte, branch->bit) > std::pair(difference->byte, difference->bit)) break;
    place = {branch, &branch->child[direction(key, branch->byte, branch->bit)]};
  }
  auto* branch = static_cast<Branch*>(pmemobj_direct(tx.allocate(sizeof(Branch), kBranchKind)));
  const auto side = direction(key, difference->byte, difference->bit);
  branch->child[side] = leaf;
  branch->child[1 - side] = *place.slot;
  branch->byte = difference->byte;
  branch->bit = difference->bit;
  branch->check = check_of(*branch);
  redirect(tx, place, offset_of(branch) | kBranchTag);
}

void Tree::erase(Transaction& tx, const Leaf* found) {
  if (watchers_ != nullptr && watchers_->any()) {
    watchers_->item(*root_, found->key(), found, std::nullopt);
  }
  const auto [place, parent] = places_of(found);
  count_items(tx, root_->count - 1);
  if (place.owner == nullptr) {
    redirect(tx, place, 0);
  } else {
    const auto side = place.slot == &place.owner->child[0] ? 1 : 0;
    redirect(tx, parent, place.owner->child[side]);
    tx.release(oid_of(pool_->handle(), place.owner));
  }
  tx.release(oid_of(pool_->handle(), found));
}

Tree::Cursor::Cursor(const Tree& tree, std::string_view start, std::size_t ahead)
    : tree_(tree), ahead_(ahead) {
  tree.verify_absence(start);  // of anything left of the way to `start`
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

// A branch is known only when the one above it has arrived from memory: one after the other, most
// of a walk is waiting. So the next subtrees are opened level by level, all of one level at once.
void Tree::Cursor::look_ahead() {
  const auto count = std::min(right_.size(), std::max<std::size_t>(1, ahead_ / 4));
  near_.assign(right_.rbegin(), right_.rbegin() + static_cast<long>(count));
  right_.resize(right_.size() - count);
  for (bool opened = true; opened && near_.size() < ahead_;) {
    opened = false;
    nearer_.clear();
    for (const auto reference : near_) {
      if (!(reference & kBranchTag)) {
        nearer_.push_back(reference);
        continue;
      }
      const auto* branch = tree_.branch_at(reference);
      verify(*branch);
      for (const auto child : branch->child) {
        __builtin_prefetch(tree_.base() + (child & ~kBranchTag));
        nearer_.push_back(child);
      }
      opened = true;
    }
    near_.swap(nearer_);
  }
  right_.insert(right_.end(), near_.rbegin(), near_.rend());
  // Each has an item that no other has.
  if (right_.size() > tree_.count()) damaged("the tree has a cycle");
}

const Leaf* Tree::Cursor::next() {
  if (right_.empty()) return nullptr;
  if (ahead_ > 0) {
    while (right_.back() & kBranchTag) look_ahead();
    if (right_.size() > 3) tree_.will_read_all(right_[right_.size() - 4]);
  }
  auto reference = right_.back();
  right_.pop_back();
  while (reference & kBranchTag) {
    if (right_.size() > static_cast<std::size_t>(kMaxDepth)) damaged("the tree has a cycle");
    const auto* branch = tree_.branch_at(reference);
    verify(*branch);
    right_.push_back(branch->child[1]);
    tree_.will_read(branch->child[1]);
    reference = branch->child[0];
  }
  const auto* leaf = tree_.leaf_at(reference);
  tree_.verify(*leaf);
  // Also ends the walk of a tree whose branches share their items.
  if (last_ != nullptr && last_->key() >= leaf->key()) damaged("its items are out of order");
  last_ = leaf;
  return leaf;
}

}  // namespace mpaxos
