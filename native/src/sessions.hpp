// The replicated session table: which request of which client was run, and what it was answered.
// The rules are in docs/sessions.md; mpaxos.core.sessions is the same in Python.
//
// A slot is handled in two passes. Planning walks its entries and decides for each what is to be
// done, changing only the table's mirror in DRAM. Committing writes what was planned inside the
// slot's transaction, entry by entry, with the replies that running the commands gave.
#pragma once

#include <cstdint>
#include <list>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "batch.hpp"
#include "image_watch.hpp"
#include "pool.hpp"
#include "tx.hpp"

namespace mpaxos {

// The stored reply of one request.
struct Cell {
  std::uint64_t sequence;
  std::uint64_t lowest;  // of the session when this was written
  std::uint64_t used;    // slot << 16 | index of the entry
  std::uint64_t blob;    // pool offset of the payload when it is too long to be here
  std::uint32_t length;
  std::uint32_t crc;  // CRC-32C over the cell without this field, and the payload
  std::uint8_t status;
  std::uint8_t set;
  std::uint8_t reserved[2];
  char payload[20];
};
static_assert(sizeof(Cell) == 64);

// Followed by `window` cells.
struct SessionObject {
  std::uint64_t id;
  std::uint32_t window;
  std::uint32_t crc;  // CRC-32C of the fields but this one
  // Entries that store no reply still move these; the larger of this and the cells' counts.
  std::uint64_t lowest;
  std::uint64_t used;
  std::uint64_t reserved[4];
  Cell* cells() { return reinterpret_cast<Cell*>(this + 1); }
};
static_assert(sizeof(SessionObject) == 64);

enum class Verdict : std::uint8_t {
  kRun,        // run the command, store its reply
  kDuplicate,  // answer with the stored reply
  kSilent,     // nobody waits for an answer
  kOpen,
  kClose,
  kExpired,  // no such session
  kBad,      // malformed: `text`
};

struct Action {
  Verdict verdict;
  bool touches;  // the session's `used` or `lowest` moved
  std::uint32_t index;  // of the entry in the batch
  std::uint32_t place;  // of the session in the table
  std::uint32_t window;
  std::uint64_t session;
  std::uint64_t sequence;
  std::uint64_t lowest;
  std::uint64_t used;
  const char* text;
  std::string_view payload;  // inside the batch
};

struct StoredReply {
  std::uint8_t status;
  std::string_view payload;
};

// What the table is made of, written in a transaction; also used to install an image.
struct CellContents {
  std::uint64_t sequence;
  std::uint64_t lowest;
  std::uint64_t used;
  std::uint8_t status;
  std::string_view payload;
};
void write_cell(Transaction& tx, char* base, Cell& cell, const CellContents& contents);
// Returns the pool offset of a session without replies.
std::uint64_t new_session(Transaction& tx, std::uint64_t id, std::uint32_t window,
                          std::uint64_t lowest, std::uint64_t used);
void write_session(Transaction& tx, SessionObject& object, std::uint64_t lowest,
                   std::uint64_t used);
void free_session(Transaction& tx, char* base, SessionObject& object);

class Sessions {
 public:
  // Loads the mirror from the pool. Throws kStorageCorrupt. `watchers` are told of every change.
  explicit Sessions(Pool& pool, const Watchers* watchers = nullptr);

  // First pass over one entry; appends to `actions` (an open may expire others: more than one).
  void plan(std::uint64_t slot, std::uint32_t index, const Entry& entry,
            std::vector<Action>& actions);

  // What store() is about to overwrite.
  void remember(Journal& journal, const Action& action) const;

  // Second pass. store() for kRun, stored() for kDuplicate, open() and close() for those; touch()
  // for whatever else has `touches`.
  void store(Transaction& tx, const Action& action, std::uint8_t status, std::string_view payload);
  StoredReply stored(const Action& action) const;
  void open(Transaction& tx, const Action& action);
  void close(Transaction& tx, const Action& action);
  void touch(Transaction& tx, const Action& action);

  std::uint64_t count() const { return by_id_.size(); }
  std::uint64_t reply_slots() const { return reply_slots_; }

  // For digests: ids in ascending order, and one session's object.
  std::vector<std::uint64_t> ids() const;
  struct View {
    std::uint64_t lowest;
    std::uint64_t used;
    SessionObject* object;
  };
  View view(std::uint64_t id) const;
  // The session at a place of the table; its object is nullptr when the place is free.
  View at(std::uint32_t place) const;
  // A sum over the sessions and the sequences of the replies they keep: equal tables have equal
  // ones, wherever their sessions lie. Fast: reads no replies.
  std::uint64_t summary() const;
  StoredReply payload_of(const Cell& cell) const;

 private:
  struct Mirror {
    std::uint64_t id = 0;
    std::uint64_t lowest = 0;
    std::uint64_t used = 0;
    std::uint32_t window = 0;
    std::uint64_t offset = 0;  // in the pool, or stale: good for a hint alone
    std::vector<std::uint64_t> sequences;  // per cell the stored sequence + 1; 0: none
    std::list<std::uint32_t>::iterator recency;
  };

  void load(std::uint32_t place, std::uint64_t offset);
  void plan_open(std::uint64_t used, std::uint32_t index, const Entry& entry,
                 std::vector<Action>& actions);
  void plan_command(std::uint64_t used, std::uint32_t index, const Entry& entry,
                    std::vector<Action>& actions);
  void will_write(const Mirror& mirror, std::uint64_t cell) const;
  void forget(std::uint32_t place);
  void use(std::uint32_t place, std::uint64_t used);
  SessionObject* object_at(std::uint64_t offset) const;
  void check(const Cell& cell) const;
  char* base() const { return reinterpret_cast<char*>(pool_.handle()); }
  std::uint64_t* table() const;

  void changed(std::uint32_t place, std::uint32_t cell, std::size_t size) const {
    if (watchers_ != nullptr && watchers_->any()) watchers_->session(place, cell, size);
  }

  Pool& pool_;
  const Watchers* watchers_;
  std::vector<Mirror> mirrors_;
  std::vector<std::uint32_t> free_;
  std::unordered_map<std::uint64_t, std::uint32_t> by_id_;
  std::list<std::uint32_t> recency_;  // least recently used first
  std::uint64_t reply_slots_ = 0;
};

}  // namespace mpaxos
