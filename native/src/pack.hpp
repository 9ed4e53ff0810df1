// Packs the state: moves items and branches together, so that blocks of memory become free.
//
// An allocation stays where it is, in a block of units of one size, and a block is free when all of
// its units are. When many items have gone, memory is free in every block and of use for items of
// the same size only. This is for the moment when that shows: an allocation found no room.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <unordered_set>
#include <vector>

#include "pool.hpp"
#include "tree.hpp"

namespace mpaxos {

class Packer {
 public:
  // Empties blocks that are filled to less than `percent`: the emptiest ones, up to an eighth of
  // the pool, since commands wait meanwhile.
  Packer(Pool& pool, unsigned percent);

  // Returns how many bytes were moved. Takes a few transactions after one another, between two
  // slots; each leaves the state as it is. Throws kStorageCorrupt when the state is damaged.
  std::uint64_t run();

 private:
  using Visit = std::function<void(Tree&, const Tree::Place&, std::size_t size)>;

  void walk(ContainerRoot& root, const Visit& visit);
  void move(Tree& tree, const Tree::Place& place, std::size_t size);
  std::uint64_t taken_at(std::uint64_t offset, std::uint64_t kind) const;
  std::uint64_t& filled_around(std::uint64_t offset);
  void choose();
  void commit();

  Pool& pool_;
  char* base_;
  unsigned percent_;
  std::uint64_t few_ = 0;  // a block with fewer bytes is emptied
  std::vector<std::uint64_t> filled_;  // bytes per block of the pool
  std::unordered_set<std::uint64_t> exhausted_;  // kinds of allocations that found no room
  std::optional<Transaction> tx_;
  std::size_t moves_ = 0;  // in it
  std::uint64_t moved_ = 0;
};

}  // namespace mpaxos
