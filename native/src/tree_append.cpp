#include "tree_append.hpp"

#include <utility>

#include "error.hpp"

namespace mpaxos {

void TreeAppender::load() {
  const auto [branches, last] = tree_.right_edge();
  edge_.clear();
  for (auto* branch : branches) edge_.push_back({branch, false});
  last_ = last;
  loaded_ = true;
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

bool TreeAppender::append(Transaction& tx, std::string_view key, std::string_view value) {
  if (!loaded_) load();
  if (last_ != nullptr && last_->key() >= key) return false;
  if (!changed_) {
    tx.add(&root_->tree, sizeof *root_ - offsetof(ContainerRoot, tree));
    changed_ = true;
  }
  const auto leaf = tree_.new_leaf(tx, key, value);
  if (last_ == nullptr) {
    redirect(tx, leaf);
  } else {
    const auto difference = Tree::compare(last_->key(), key);
    invariant(difference.has_value(), "an item is appended twice");
    const auto position = std::pair(difference->byte, difference->bit);
    while (!edge_.empty() &&
           std::pair(edge_.back().branch->byte, edge_.back().branch->bit) > position) {
      auto& step = edge_.back();
      if (step.ours) step.branch->check = branch_check(*step.branch);
      edge_.pop_back();
    }
    auto* branch = static_cast<Branch*>(pmemobj_direct(tx.allocate(sizeof(Branch))));
    branch->child[0] = edge_.empty() ? root_->tree : edge_.back().branch->child[1];
    branch->child[1] = leaf;
    branch->byte = difference->byte;
    branch->bit = difference->bit;
    redirect(tx, tree_.offset_of(branch) | kBranchTag);
    edge_.push_back({branch, true});
  }
  last_ = tree_.leaf_at(leaf);
  ++root_->count;
  return true;
}

void TreeAppender::finish() {
  if (!changed_) return;
  changed_ = false;
  for (auto& step : edge_) {
    if (step.ours) step.branch->check = branch_check(*step.branch);
    step.ours = false;
  }
  root_->check = container_check(*root_);
}

void TreeAppender::forget() {
  loaded_ = changed_ = false;
  edge_.clear();
}

}  // namespace mpaxos
