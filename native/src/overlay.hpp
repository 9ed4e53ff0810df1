// The changes of the slot that is being applied, laid over the engine: what a machine in Python
// reads and writes while its commands run.
//
// A command's changes are those of the slot as soon as it returned, and are taken back one by one
// when it raised, so that it rolls back alone. The slot's changes go to the engine together, in one
// step with the replies. Keys and values are not copied: what holds them is kept until then.
//
// Sizes are logical, so that every replica decides alike whether a command fits: an item counts
// kItemOverhead and the bytes of key and value.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine.hpp"

namespace mpaxos {

// Bytes with what keeps them, if it is not the pool.
struct Text {
  std::string_view bytes;
  nanobind::object owner;
};

// What lies beneath the overlay: the engine in the pool, or one in Python with the same calls.
class OverlaySource {
 public:
  struct Item {
    Text value;
    const Leaf* leaf = nullptr;  // of the engine in the pool
  };

  virtual ~OverlaySource() = default;
  virtual nanobind::list begin(std::uint64_t slot, std::uint64_t time, nanobind::object batch) = 0;
  virtual nanobind::object finish(const nanobind::list& replies,
                                  const std::vector<Change>& changes) = 0;
  virtual std::uint32_t container(const std::string& name) = 0;
  virtual std::optional<Item> find(std::uint32_t container, std::string_view key) = 0;
  virtual std::uint64_t count(std::uint32_t container) = 0;
  virtual std::uint64_t used() = 0;
  virtual nanobind::list scan(std::uint32_t container, std::string_view start,
                              std::optional<std::string_view> end, std::size_t limit) = 0;
};

std::unique_ptr<OverlaySource> overlay_source(nanobind::object engine);

class Overlay;

// One container as bytes: an ordered map.
class Table {
 public:
  Table(Overlay& overlay, std::uint32_t number, std::string name)
      : overlay_(&overlay), number_(number), name_(std::move(name)) {}

  std::optional<Text> get(std::string_view key);
  // Raises ValueError when the key is too long for the engine's map.
  void put(Text key, Text value);
  bool erase(Text key);  // whether it was there
  std::uint64_t size();

  // For walks through all items: those of the slot, in order; those of the engine, page by page;
  // and the value that an item has by now, where `value` was seen on the way.
  std::vector<std::pair<Text, std::optional<Text>>> recent(std::string_view start,
                                                           std::optional<std::string_view> end);
  nanobind::list stored(std::string_view start, std::optional<std::string_view> end,
                        std::size_t limit);
  nanobind::bytes newest(std::string_view key, nanobind::bytes value) const;

  const std::string& name() const { return name_; }
  // Counts additions and removals of keys, to notice them during an iteration.
  std::uint64_t changes() const { return changes_; }

 private:
  friend class Overlay;
  enum class State : std::uint8_t { kStored, kSet, kRemoved };
  // One key that the slot's commands wrote.
  struct Entry {
    Text key;
    std::optional<std::size_t> stored;  // bytes of its value in the engine, before the slot
    const Leaf* leaf;
    State state = State::kStored;
    Text value = {};
    // Bytes of its value; nothing where the key has none.
    std::optional<std::size_t> size() const {
      if (state == State::kStored) return stored;
      return state == State::kSet ? std::optional(value.bytes.size()) : std::nullopt;
    }
  };

  Entry& entry(Text key);
  void check_writable() const;
  void set(Entry& entry, State state, Text value);
  void take_back(Entry& entry, State state, Text value);
  void add_changes(std::vector<Change>& changes) const;
  void clear();

  Overlay* overlay_;
  std::uint32_t number_;
  std::string name_;
  std::deque<Entry> entries_;  // in the order in which they were first written
  std::unordered_map<std::string_view, Entry*> index_;
  std::int64_t growth_ = 0;  // items more than in the engine
  std::uint64_t changes_ = 0;
};

// All containers of one state machine. Calls come from one thread, which has the interpreter.
class Overlay {
 public:
  enum class Mode : std::uint8_t { kClosed, kRead, kWrite };

  explicit Overlay(std::unique_ptr<OverlaySource> source) : source_(std::move(source)) {}
  Overlay(const Overlay&) = delete;
  Overlay& operator=(const Overlay&) = delete;

  // The container called `name`, created in the engine when it is new.
  Table& table(const std::string& name);

  // The requests to run; from here on containers can be changed.
  nanobind::list begin(std::uint64_t slot, std::uint64_t time, nanobind::object batch);
  // From here on they can be read only.
  void begin_queries();
  // From here on they cannot be changed.
  void close() { mode_ = Mode::kClosed; }
  // Makes the slot durable, with a reply for each request. Returns what the engine does.
  nanobind::object finish(const nanobind::list& replies);

  // Both end a command, and both throw what the storage threw when it read, whatever it made of
  // that: its reply would differ from those of the other replicas.
  // The command's changes stay, unless the state would have more than `limit` bytes: then they are
  // taken back, and the return value is what it would have. Otherwise it is 0.
  std::uint64_t merge(std::uint64_t limit);
  // They are taken back.
  void rollback();

 private:
  friend class Table;
  struct Undo {
    Table* table;
    Table::Entry* entry;
    Table::State state;
    Text value;
  };

  template <typename Look>
  auto look(Look look);
  void take_back();
  void check_storage();

  std::unique_ptr<OverlaySource> source_;
  std::deque<Table> tables_;
  std::vector<Undo> undo_;  // of the running command
  std::int64_t grown_ = 0;  // bytes by which the running command has grown the state
  std::uint64_t used_ = 0;  // bytes of the state before it
  Mode mode_ = Mode::kClosed;
  nanobind::object fault_;  // what the storage raised
};

}  // namespace mpaxos
