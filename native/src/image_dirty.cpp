#include "image_dirty.hpp"

namespace mpaxos {
namespace {

constexpr std::uint64_t kSessionMemory = 128;

}  // namespace

void DirtySet::item(std::uint32_t container, std::string_view key, std::size_t value_size) {
  auto& items = items_[container];
  const auto cost = kDirtyCost + key.size() + value_size;
  cost_ += cost;
  if (const auto found = items.find(key); found != items.end()) {
    cost_ -= found->second;
    found->second = cost;
    return;
  }
  items.emplace(key, cost);
  ++count_;
  memory_ += memory_of(key);
}

const std::string* DirtySet::first_item(std::uint32_t container) const {
  const auto& items = items_[container];
  return items.empty() ? nullptr : &items.begin()->first;
}

void DirtySet::drop_first_item(std::uint32_t container) {
  auto& items = items_[container];
  const auto first = items.begin();
  --count_;
  cost_ -= first->second;
  memory_ -= memory_of(first->first);
  items.erase(first);
}

DirtySet::Session& DirtySet::session_at(std::uint32_t place) {
  const auto [at, fresh] = sessions_.try_emplace(place);
  if (fresh) memory_ += kSessionMemory;
  return at->second;
}

void DirtySet::session(std::uint32_t place) {
  auto& session = session_at(place);
  if (session.itself) return;
  session.itself = true;
  session.cost += kDirtyCost;
  cost_ += kDirtyCost;
}

void DirtySet::cell(std::uint32_t place, std::uint32_t cell, std::size_t reply_size) {
  auto& session = session_at(place);
  const auto word = cell / 64;
  if (word >= session.cells.size()) {
    memory_ += (word + 1 - session.cells.size()) * 8;
    session.cells.resize(word + 1);
  }
  session.cells[word] |= std::uint64_t{1} << cell % 64;
  // A cell written twice counts twice: an estimate from above is enough, and starts again at 0
  // when the session is sent.
  session.cost += kDirtyCost + reply_size;
  cost_ += kDirtyCost + reply_size;
}

DirtySet::Session* DirtySet::first_session(std::uint32_t& place) {
  if (sessions_.empty()) return nullptr;
  place = sessions_.begin()->first;
  return &sessions_.begin()->second;
}

void DirtySet::drop_first_session() {
  const auto first = sessions_.begin();
  cost_ -= first->second.cost;
  memory_ -= kSessionMemory + first->second.cells.size() * 8;
  sessions_.erase(first);
}

void DirtySet::clear() {
  for (auto& items : items_) Items().swap(items);
  decltype(sessions_)().swap(sessions_);
  count_ = cost_ = memory_ = 0;
}

}  // namespace mpaxos
