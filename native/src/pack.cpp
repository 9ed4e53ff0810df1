#include "pack.hpp"

#include <algorithm>
#include <cstring>

#include "error.hpp"

namespace mpaxos {
namespace {

constexpr std::uint64_t kBlockSize = 256 << 10;  // of libpmemobj's blocks
constexpr std::uint64_t kHeader = 16;            // of an allocation that has one
// Larger allocations are a quarter of a block and more: libpmemobj finds room for them by itself
// once blocks are free.
constexpr std::size_t kLargestMoved = 64 << 10;
// What one transaction of libpmemobj does without more memory for itself: there may be none.
constexpr std::size_t kMovesAtOnce = 8;
constexpr std::size_t kWalkedAtOnce = 32;

}  // namespace

Packer::Packer(Pool& pool, unsigned percent)
    : pool_(pool),
      base_(reinterpret_cast<char*>(pool.handle())),
      percent_(percent),
      filled_(pool.size() / kBlockSize + 2) {}

std::uint64_t Packer::run() {
  for (auto& root : pool_.engine_root().containers) {
    walk(root, [this](Tree&, const Tree::Place& place, std::size_t size) {
      const auto offset = *place.slot & ~kBranchTag;
      filled_around(offset) += taken_at(offset, allocation_kind(size, pool_.size()));
    });
  }
  choose();
  for (auto& root : pool_.engine_root().containers) {
    walk(root, [this](Tree& tree, const Tree::Place& place, std::size_t size) {
      move(tree, place, size);
    });
  }
  commit();
  return moved_;
}

void Packer::choose() {
  std::vector<std::uint64_t> sparse;
  for (const auto bytes : filled_) {
    if (bytes > 0 && bytes * 100 < kBlockSize * percent_) sparse.push_back(bytes);
  }
  std::sort(sparse.begin(), sparse.end());
  const auto most = std::max<std::uint64_t>(1, pool_.size() / 8 / kBlockSize);
  if (sparse.size() > most) sparse.resize(most);
  few_ = sparse.empty() ? 0 : sparse.back() + 1;
}

// Visits each branch before what is below it, so that it can be moved, and each item. Many at a
// time: whatever comes next is in no cache, and so they wait for memory together.
void Packer::walk(ContainerRoot& root, const Visit& visit) {
  if (root.tree == 0) return;
  Tree tree(pool_, root);
  tree.verify_absence({});  // the container itself
  std::vector<Tree::Place> ahead{{nullptr, &root.tree}};
  std::vector<Tree::Place> group;
  std::uint64_t items = 0;
  while (!ahead.empty()) {
    const auto count = std::min(ahead.size(), kWalkedAtOnce);
    group.assign(ahead.end() - static_cast<long>(count), ahead.end());
    ahead.resize(ahead.size() - count);
    for (const auto& place : group) tree.will_read(*place.slot);
    for (const auto& place : group) {
      if (*place.slot & kBranchTag) {
        tree.verify(*tree.branch_at(*place.slot));
        visit(tree, place, sizeof(Branch));
        auto* branch = tree.branch_at(*place.slot);
        for (auto& child : branch->child) ahead.push_back({branch, &child});
      } else {
        const auto* leaf = tree.leaf_at(*place.slot);
        tree.verify(*leaf);
        visit(tree, place, sizeof(Leaf) + leaf->key_length + leaf->value_capacity);
        ++items;
      }
    }
    // Each place leads to an item of its own.
    invariant(items + ahead.size() <= root.count, "a container has more items than it counts");
  }
}

void Packer::move(Tree& tree, const Tree::Place& place, std::size_t size) {
  const auto tag = *place.slot & kBranchTag;
  const auto offset = *place.slot & ~kBranchTag;
  const auto kind = allocation_kind(size, pool_.size());
  auto& before = filled_around(offset);
  if (size > kLargestMoved || before >= few_) return;
  if (exhausted_.contains(kind)) return;
  if (!tx_) tx_.emplace(pool_.handle());
  PMEMoid oid;
  try {
    oid = tx_->allocate(size, kind);
  } catch (const Error&) {
    exhausted_.insert(kind);
    return;
  }
  auto& after = filled_around(oid.off);
  if (&before == &after) {
    tx_->release(oid);
    return;
  }
  std::memcpy(base_ + oid.off, base_ + offset, size);
  tree.redirect(*tx_, place, oid.off | tag);
  const auto bytes = taken_at(offset, kind);
  tx_->release(pmemobj_oid(base_ + offset));
  before -= bytes;
  after += bytes;
  moved_ += bytes;
  if (++moves_ == kMovesAtOnce) commit();
}

void Packer::commit() {
  if (tx_) tx_->commit();
  tx_.reset();
  moves_ = 0;
}

std::uint64_t Packer::taken_at(std::uint64_t offset, std::uint64_t kind) const {
  return pmemobj_alloc_usable_size(pmemobj_oid(base_ + offset)) + (kind == 0 ? kHeader : 0);
}

std::uint64_t& Packer::filled_around(std::uint64_t offset) {
  const auto first = pool_.block_begin() % kBlockSize;
  return filled_.at((offset + kBlockSize - first) / kBlockSize);
}

}  // namespace mpaxos
