#include "overlay.hpp"

#include <algorithm>

#include "error.hpp"
#include "python_bytes.hpp"
#include "python_errors.hpp"

namespace nb = nanobind;

namespace mpaxos {
namespace {

constexpr std::size_t kManyBuckets = 4096;

bool is_storage_fault(const nb::python_error& error) {
  return error.matches(error_class("StorageError")) ||
         error.matches(error_class("InvariantViolated"));
}

}  // namespace

// Runs `look`, which reads the engine, and keeps it when the engine fails.
template <typename Look>
auto Overlay::look(Look look) {
  try {
    return look();
  } catch (const Error& error) {
    fault_ = exception_of(error);
    throw;
  } catch (const nb::python_error& error) {
    if (is_storage_fault(error)) fault_ = nb::borrow(error.value());
    throw;
  }
}

// ---------------------------------------------------------------- one container

std::optional<Text> Table::get(std::string_view key) {
  if (const auto found = index_.find(key); found != index_.end()) {
    const auto& entry = *found->second;
    if (entry.state == State::kSet) return entry.value;
    if (entry.state == State::kRemoved || !entry.stored) return std::nullopt;
  }
  auto item = overlay_->look([&] { return overlay_->source_->find(number_, key); });
  if (!item) return std::nullopt;
  return std::move(item->value);
}

void Table::check_writable() const {
  if (overlay_->mode_ == Overlay::Mode::kWrite) return;
  const bool query = overlay_->mode_ == Overlay::Mode::kRead;
  const auto text = name_ + " cannot be changed " + (query ? "in a query" : "outside a command") +
                    ": use a @command";
  PyErr_SetString(error_class("ReadOnly").ptr(), text.c_str());
  throw nb::python_error();
}

Table::Entry& Table::entry(Text key) {
  if (const auto found = index_.find(key.bytes); found != index_.end()) return *found->second;
  const auto item = overlay_->look([&] { return overlay_->source_->find(number_, key.bytes); });
  entries_.push_back({.key = std::move(key), .stored = std::nullopt, .leaf = nullptr});
  auto& entry = entries_.back();
  if (item) {
    entry.stored = item->value.bytes.size();
    entry.leaf = item->leaf;
  }
  index_.emplace(entry.key.bytes, &entry);
  return entry;
}

void Table::set(Entry& entry, State state, Text value) {
  overlay_->undo_.push_back({this, &entry, entry.state, entry.value});
  const auto before = entry.size();
  entry.state = state;
  entry.value = std::move(value);
  const auto after = entry.size();
  const auto whole = static_cast<std::int64_t>(kItemOverhead + entry.key.bytes.size());
  if (before) overlay_->grown_ -= whole + static_cast<std::int64_t>(*before);
  if (after) overlay_->grown_ += whole + static_cast<std::int64_t>(*after);
  if (before.has_value() != after.has_value()) {
    growth_ += after ? 1 : -1;
    ++changes_;
  }
}

void Table::take_back(Entry& entry, State state, Text value) {
  const bool there = entry.size().has_value();
  entry.state = state;
  entry.value = std::move(value);
  growth_ += static_cast<int>(entry.size().has_value()) - static_cast<int>(there);
  ++changes_;
}

void Table::put(Text key, Text value) {
  if (key.bytes.size() > kMaxKey) {
    const auto text = "a key takes at most " + std::to_string(kMaxKey) + " bytes, not " +
                      std::to_string(key.bytes.size());
    PyErr_SetString(PyExc_ValueError, text.c_str());
    throw nb::python_error();
  }
  check_writable();
  set(entry(std::move(key)), State::kSet, std::move(value));
}

bool Table::erase(Text key) {
  check_writable();
  if (key.bytes.size() > kMaxKey) return false;
  auto& found = entry(std::move(key));
  if (!found.size()) return false;
  set(found, State::kRemoved, {});
  return true;
}

std::uint64_t Table::size() {
  const auto stored = overlay_->look([&] { return overlay_->source_->count(number_); });
  return stored + static_cast<std::uint64_t>(growth_);
}

std::vector<std::pair<Text, std::optional<Text>>> Table::recent(
    std::string_view start, std::optional<std::string_view> end) {
  std::vector<std::pair<Text, std::optional<Text>>> items;
  for (const auto& entry : entries_) {
    const bool inside = entry.key.bytes >= start && (!end || entry.key.bytes < *end);
    if (entry.state == State::kStored || !inside) continue;
    const bool set = entry.state == State::kSet;
    items.emplace_back(entry.key, set ? std::optional(entry.value) : std::nullopt);
  }
  std::sort(items.begin(), items.end(),
            [](const auto& a, const auto& b) { return a.first.bytes < b.first.bytes; });
  return items;
}

nb::list Table::stored(std::string_view start, std::optional<std::string_view> end,
                       std::size_t limit) {
  return overlay_->look([&] { return overlay_->source_->scan(number_, start, end, limit); });
}

nb::bytes Table::newest(std::string_view key, nb::bytes value) const {
  const auto found = index_.find(key);
  if (found == index_.end() || found->second->state == State::kStored) return value;
  invariant(found->second->state == State::kSet, "a key vanished without being counted");
  const auto bytes = found->second->value.bytes;
  return as_bytes(bytes);
}

// Removals of what the engine never had are left out.
void Table::add_changes(std::vector<Change>& changes) const {
  for (const auto& entry : entries_) {
    if (entry.state == State::kSet) {
      changes.push_back({number_, entry.key.bytes, entry.value.bytes, entry.leaf});
    } else if (entry.state == State::kRemoved && entry.stored) {
      changes.push_back({number_, entry.key.bytes, std::nullopt, entry.leaf});
    }
  }
}

void Table::clear() {
  growth_ = 0;
  if (entries_.empty()) return;
  // clear() takes as long as there are buckets, and one large slot would leave many for ever.
  if (index_.bucket_count() > kManyBuckets) index_ = {};
  index_.clear();
  entries_.clear();
}

// ---------------------------------------------------------------- all of them

Table& Overlay::table(const std::string& name) {
  return tables_.emplace_back(*this, source_->container(name), name);
}

nb::list Overlay::begin(std::uint64_t slot, std::uint64_t time, nb::object batch) {
  auto requests = source_->begin(slot, time, std::move(batch));
  undo_.clear();
  for (auto& table : tables_) table.clear();
  grown_ = 0;
  used_ = source_->used();
  fault_.reset();
  mode_ = Mode::kWrite;
  return requests;
}

void Overlay::begin_queries() {
  fault_.reset();
  mode_ = Mode::kRead;
}

std::uint64_t Overlay::merge(std::uint64_t limit) {
  check_storage();
  const auto needed = used_ + static_cast<std::uint64_t>(grown_);
  if (grown_ > 0 && needed > limit) {
    take_back();
    return needed;
  }
  used_ = needed;
  grown_ = 0;
  undo_.clear();
  return 0;
}

void Overlay::rollback() {
  take_back();
  check_storage();
}

void Overlay::take_back() {
  while (!undo_.empty()) {
    auto undo = std::move(undo_.back());
    undo_.pop_back();
    undo.table->take_back(*undo.entry, undo.state, std::move(undo.value));
  }
  grown_ = 0;
}

void Overlay::check_storage() {
  if (!fault_.is_valid()) return;
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(fault_.ptr())), fault_.ptr());
  throw nb::python_error();
}

nb::object Overlay::finish(const nb::list& replies) {
  invariant(undo_.empty(), "a slot is finished in the middle of a command");
  std::vector<Change> changes;
  for (const auto& table : tables_) table.add_changes(changes);
  auto result = source_->finish(replies, changes);
  for (auto& table : tables_) table.clear();
  return result;
}

}  // namespace mpaxos
