// The key-value service (docs/wire.md, "Requests of the key-value service") over a persistent
// tree. mpaxos.services.kv.KeyValue is the same in Python.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tree.hpp"

namespace mpaxos {

// What an item counts against the limit of the state, beside its key and value.
inline constexpr std::uint64_t kItemOverhead = 64;

// An item that was looked up, or that there is none: valid until items move.
struct Found {
  bool known = false;
  const Leaf* leaf = nullptr;
};

class KeyValue {
 public:
  KeyValue(Tree tree, std::uint64_t limit) : tree_(tree), limit_(limit) {}

  // Before any command of a slot runs: looks up what each is about, into `found`, and has the
  // journal remember what they will probably overwrite. An empty request is none.
  void prepare(Journal& journal, const std::vector<std::string_view>& requests,
               std::vector<Found>& found);

  // Runs a command; `found` is what prepare() told of it in this slot. The payload of the
  // reply is left in reply(). `used` is the size of the state, which the command may change.
  // Returns the status.
  std::uint8_t run(Transaction& tx, std::string_view request, std::uint64_t& used, Found found);

  // Before any of a batch of queries is answered: looks up what each is about, into `found`.
  void look_up(const std::vector<std::string_view>& requests, std::vector<Found>& found);

  // Answers an operation that changes nothing; any other is STATUS_BAD. `found` is what look_up()
  // told of it, with no command in between.
  std::uint8_t query(std::string_view request, Found found);

  std::string_view reply() const { return reply_; }

 private:
  std::uint8_t operate(Transaction* tx, std::string_view request, std::uint64_t& used,
                       Found found);
  const Leaf* find(std::string_view key, Found found) const {
    return found.known && !moved_ ? found.leaf : tree_.find(key);
  }
  std::uint8_t put(Transaction& tx, const Leaf* found, std::string_view key,
                   std::string_view value, std::uint64_t& used);
  void erase(Transaction& tx, const Leaf* found, std::uint64_t& used);
  std::uint8_t compare_and_set(Transaction& tx, class Fields& fields, std::uint64_t& used,
                               Found found);
  void scan(class Fields& fields);
  std::uint8_t bad(std::string_view text);

  Tree tree_;
  std::uint64_t limit_;
  std::vector<Tree::Search> searches_;
  bool moved_ = false;  // since look_up() an item was inserted, removed, or put elsewhere
  std::string reply_;
};

}  // namespace mpaxos
