// What lives in an open pool: whether every allocated object can be reached from the root and every
// reachable one is allocated, and which bytes count. Uses the product's own layout.
#include <libpmemobj.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "image_target.hpp"
#include "pool_layout.hpp"
#include "recorder.hpp"
#include "sessions.hpp"
#include "tree.hpp"

namespace {

using namespace mpaxos;

struct Finding : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Audit {
 public:
  explicit Audit(PMEMobjpool* pool) : pool_(pool), base_(reinterpret_cast<char*>(pool)) {}

  void run() {
    auto* root =
        static_cast<PoolRoot*>(pmemobj_direct(pmemobj_root(pool_, sizeof(PoolRoot))));
    fixed(*root);
    if (root->engine.installing.bits != 0) installation(*root);
    const auto known_early = ranges_.size();
    reach(root->header.log_offset, root->header.log_size, "the log");
    const auto places = root->header.limits.max_sessions;
    reach(root->engine.session_table, places * 8, "the session table");
    const auto* table = reinterpret_cast<std::uint64_t*>(base_ + root->engine.session_table);
    for (std::uint64_t place = 0; place < places; ++place) {
      counts(&table[place], sizeof table[place]);
      if (table[place] != 0) session(table[place]);
    }
    for (auto& container : root->engine.containers) {
      std::uint64_t items = 0;
      if (container.tree != 0) subtree(container.tree, items);
      if (items != container.count) throw Finding("a container miscounts its items");
      if (container.name[0] == '\0') continue;
      counts(&container, offsetof(ContainerRoot, reserved));
      names_ += (names_.empty() ? "" : ",") + std::string(container.name);
    }
    compare();
    // What is installed is read when the image is complete, and damage to it noticed then.
    if (root->engine.installing.bits != 0) ranges_.resize(known_early);
  }

  std::string report() const {
    std::string text = names_ + "\n";
    for (const auto& [offset, length] : ranges_) {
      text += std::to_string(offset) + " " + std::to_string(length) + "\n";
    }
    return text;
  }

 private:
  // Bytes under a checksum that reopening, or reading everything, looks at.
  void counts(const void* data, std::size_t length) {
    ranges_.emplace_back(static_cast<const char*>(data) - base_, length);
  }

  void fixed(const PoolRoot& root) {
    counts(&root.header, offsetof(PoolHeader, crc) + 4);
    const auto counter = read_word_unchecked(root.promise_word);
    counts(&root.promises[counter % 2], offsetof(PromiseCell, reserved));
    for (const auto* word : {&root.promise_word, &root.tail, &root.head, &root.truncated}) {
      counts(word, sizeof *word);
    }
    counts(&root.engine.applied, sizeof root.engine.applied);
    const auto units = root.header.log_size / kUnit;
    auto at = read_word_unchecked(root.head);
    const auto tail = read_word_unchecked(root.tail);
    while (at < tail) {
      const auto* header = reinterpret_cast<RecordHeader*>(base_ + root.header.log_offset +
                                                           at % units * kUnit);
      const bool skip = header->magic == kSkipMagic;
      counts(header, sizeof *header + (skip ? 0 : header->length));
      at += 1 + (header->length + kUnit - 1) / kUnit;
    }
  }

  static std::uint64_t read_word_unchecked(const Word& word) { return word.bits << 16 >> 16; }

  void reach(std::uint64_t offset, std::size_t needed, const char* what) {
    if (!reachable_.emplace(offset, needed).second) {
      throw Finding(std::string(what) + " is referred to twice");
    }
  }

  void installation(const PoolRoot& root) {
    const auto offset = read_word_unchecked(root.engine.installing);
    const auto* state = reinterpret_cast<Installation*>(base_ + offset);
    reach(offset, sizeof *state, "the installation");
    counts(&root.engine.installing, sizeof(Word));
    if (state->crc != 0) counts(state, sizeof *state);
    std::uint64_t parts = 0;
    if (state->parts.tree != 0) subtree(state->parts.tree, parts);
    if (parts != state->parts.count) throw Finding("an installation miscounts its parts");
  }

  void session(std::uint64_t offset) {
    auto* object = reinterpret_cast<SessionObject*>(base_ + offset);
    reach(offset, sizeof *object + object->window * sizeof(Cell), "a session");
    counts(object, sizeof *object);
    for (std::uint32_t i = 0; i < object->window; ++i) {
      const auto& cell = object->cells()[i];
      counts(&cell, sizeof cell);  // unused ones must be zero
      if (cell.blob == 0) continue;
      reach(cell.blob, cell.length, "a reply");
      counts(base_ + cell.blob, cell.length);
    }
  }

  void subtree(std::uint64_t reference, std::uint64_t& items) {
    if ((reference & 1) != 0) {
      const auto* branch = reinterpret_cast<Branch*>(base_ + reference - 1);
      reach(reference - 1, sizeof *branch, "a branch");
      counts(branch, sizeof *branch);
      subtree(branch->child[0], items);
      subtree(branch->child[1], items);
      return;
    }
    ++items;
    const auto* leaf = reinterpret_cast<Leaf*>(base_ + reference);
    reach(reference, sizeof *leaf + leaf->key_length + leaf->value_capacity, "an item");
    counts(leaf, 8);  // the lengths; the capacity after them is not under the checksum
    counts(&leaf->crc, 4 + std::size_t{leaf->key_length} + leaf->value_length);
  }

  void compare() {
    std::size_t found = 0;
    for (auto oid = pmemobj_first(pool_); !OID_IS_NULL(oid); oid = pmemobj_next(oid), ++found) {
      const auto known = reachable_.find(oid.off);
      if (known == reachable_.end()) {
        throw Finding("leaked: an object of " + std::to_string(pmemobj_alloc_usable_size(oid)) +
                      " bytes at " + std::to_string(oid.off) + " that nothing refers to");
      }
      if (pmemobj_alloc_usable_size(oid) < known->second) {
        throw Finding("an object at " + std::to_string(oid.off) + " is smaller than its use");
      }
    }
    if (found != reachable_.size()) {
      throw Finding(std::to_string(reachable_.size() - found) +
                    " objects that are referred to are not allocated");
    }
  }

  PMEMobjpool* pool_;
  char* base_;
  std::unordered_map<std::uint64_t, std::size_t> reachable_;
  std::vector<std::pair<std::uint64_t, std::size_t>> ranges_;
  std::string names_;
};

}  // namespace

extern "C" {

// Looks at the watched pool, which must be open. Returns 0 and the containers' names, then lines of
// "offset length" of the bytes that count, in `text`; or 1 and what is wrong.
int crash_audit(char* text, std::size_t size) {
  try {
    auto* base = mpaxos::crash::Recorder::instance().base();
    if (base == nullptr) throw Finding("the pool is not open");
    Audit audit(static_cast<PMEMobjpool*>(base));
    audit.run();
    std::snprintf(text, size, "%s", audit.report().c_str());
    return 0;
  } catch (const std::exception& error) {
    std::snprintf(text, size, "%s", error.what());
    return 1;
  }
}

// What libpmemobj itself says of the file `path`, which must be closed: 1 consistent, 0 not, -1
// cannot be checked.
int crash_check_file(const char* path) { return pmemobj_check(path, kPoolLayout); }

// Copies every page of `file` that differs from `base` back from it; returns how many.
std::size_t crash_restore(char* file, const char* base, std::size_t size) {
  std::size_t pages = 0;
  for (std::size_t at = 0; at < size; at += crash::kPage) {
    if (std::memcmp(file + at, base + at, crash::kPage) == 0) continue;
    std::memcpy(file + at, base + at, crash::kPage);
    ++pages;
  }
  return pages;
}

}  // extern "C"
