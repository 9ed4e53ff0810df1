// Inserts items that come in key order into a tree, as those of an image do (image_target.hpp).
//
// Each is put behind all others, so all that changes is the tree's right edge, which is kept here:
// nothing is looked for from the root, and a branch gets its checksum once, when it leaves the
// edge or at the end of the transaction, instead of with each item below it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tree.hpp"

namespace mpaxos {

class TreeAppender {
 public:
  TreeAppender(Pool& pool, ContainerRoot& root) : pool_(&pool), tree_(pool, root), root_(&root) {}

  // Inserts an item whose key is above all others. Otherwise false, and nothing was done. `item`:
  // as it is in the pool, a Leaf with key and value behind it. Whoever is to see the tree needs
  // finish() first; key and item stay where they are until then, or until write().
  bool append(Transaction& tx, std::string_view key, std::string_view item);
  // Writes the items that were appended.
  void write();
  // To be called before the transaction is committed, or the tree used by anything else in it.
  void finish();
  // Pool offset behind everything that was appended since forget().
  std::uint64_t reached() const { return reached_; }
  // The tree was changed by somebody else, or the transaction was taken back.
  void forget();

 private:
  struct Step {
    Branch* branch;
    bool ours;  // may be changed in this transaction, and has no valid checksum yet
  };

  // An item that has its place, and is not there yet.
  struct Pending {
    std::uint64_t offset;
    std::string_view item;
  };

  void load();
  // What was allocated last, and how far behind the one before.
  struct Place {
    std::uint64_t offset = 0;
    std::uint64_t step = 0;
  };

  std::uint64_t allocate(Transaction& tx, std::size_t size, std::uint64_t kind, Place& place);
  void seal(Step& step);
  void redirect(Transaction& tx, std::uint64_t reference);

  Pool* pool_;
  Tree tree_;
  ContainerRoot* root_;
  std::vector<Pending> pending_;
  std::vector<Step> edge_;  // the branches on the way to the last item, the highest one first
  std::vector<const Branch*> sealed_;  // not flushed yet
  std::string last_key_;
  bool empty_ = true;  // there is no last one
  std::uint64_t reached_ = 0;
  Place leaves_;
  Place branches_;
  bool loaded_ = false;
  bool changed_ = false;  // in this transaction
};

}  // namespace mpaxos
