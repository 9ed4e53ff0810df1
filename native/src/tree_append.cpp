#include "tree_append.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "error.hpp"

namespace mpaxos {

void TreeAppender::load() {
  const auto [branches, last] = tree_.right_edge();
  edge_.clear();
  for (auto* branch : branches) edge_.push_back({branch, false});
  empty_ = last == nullptr;
  last_key_ = empty_ ? std::string_view() : last->key();
  loaded_ = true;
}

// In an empty pool one allocation follows the other, so the next one can be foretold; its memory is
// in no cache yet.
std::uint64_t TreeAppender::allocate(Transaction& tx, std::size_t size, std::uint64_t kind,
                                     Place& place) {
  const auto offset = tx.reserve(size, kind).off;
  reached_ = std::max(reached_, offset + size);
  place.step = offset - place.offset;
  place.offset = offset;
  __builtin_prefetch(tree_.base() + offset + place.step, 1);
  return offset;
}

// All together: an allocation takes locks, and a lock waits until everything that was written past
// the caches has arrived in memory.
void TreeAppender::write() {
  for (const auto& [offset, item] : pending_) {
    pmemobj_memcpy(pool_->handle(), tree_.base() + offset, item.data(), item.size(),
                   PMEMOBJ_F_MEM_NODRAIN);
  }
  pending_.clear();
}

// It does not change any more in this transaction.
void TreeAppender::seal(Step& step) {
  if (!step.ours) return;
  step.branch->check = branch_check(*step.branch);
  sealed_.push_back(step.branch);
  step.ours = false;
}

// Lets the lowest pointer of the edge lead to `reference`.
void TreeAppender::redirect(Transaction& tx, std::uint64_t reference) {
  if (edge_.empty()) {
    root_->tree = reference;  // added to the transaction by append()
    return;
  }
  auto& step = edge_.back();
  if (!step.ours) {
    tx.add(step.branch, sizeof *step.branch);
    step.ours = true;
  }
  step.branch->child[1] = reference;
}

bool TreeAppender::append(Transaction& tx, std::string_view key, std::string_view item) {
  if (!loaded_) load();
  if (!empty_ && last_key_ >= key) return false;
  if (!changed_) {
    tx.add(&root_->tree, sizeof *root_ - offsetof(ContainerRoot, tree));
    changed_ = true;
  }
  const auto value = item.substr(sizeof(Leaf) + key.size());
  const auto size = Tree::leaf_size(key, value);
  const auto leaf = allocate(tx, size, allocation_kind(size, tree_.size_), leaves_);
  pending_.push_back({leaf, item});
  if (empty_) {
    redirect(tx, leaf);
  } else {
    const auto difference = Tree::compare(last_key_, key);
    invariant(difference.has_value(), "an item is appended twice");
    const auto position = std::pair(difference->byte, difference->bit);
    while (!edge_.empty() &&
           std::pair(edge_.back().branch->byte, edge_.back().branch->bit) > position) {
      seal(edge_.back());
      edge_.pop_back();
    }
    const auto reference = allocate(tx, sizeof(Branch), kBranchKind, branches_);
    auto* branch = reinterpret_cast<Branch*>(tree_.base() + reference);
    branch->child[0] = edge_.empty() ? root_->tree : edge_.back().branch->child[1];
    branch->child[1] = leaf;
    branch->byte = difference->byte;
    branch->bit = difference->bit;
    redirect(tx, reference | kBranchTag);
    edge_.push_back({branch, true});
  }
  last_key_ = key;
  empty_ = false;
  ++root_->count;
  return true;
}

void TreeAppender::finish() {
  write();
  if (!changed_) return;
  changed_ = false;
  for (auto& step : edge_) seal(step);
  // Only now: the next branch would be in the same line.
  for (const auto* branch : sealed_) pmemobj_flush(pool_->handle(), branch, sizeof *branch);
  sealed_.clear();
  root_->check = container_check(*root_);
}

void TreeAppender::forget() {
  loaded_ = changed_ = false;
  reached_ = 0;
  edge_.clear();
  pending_.clear();
  sealed_.clear();
}

}  // namespace mpaxos
