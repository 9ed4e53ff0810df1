#include "image_dirty.hpp"

namespace mpaxos {
namespace {

constexpr std::uint64_t kSessionMemory = 128;

}  // namespace

void DirtySet::item(std::uint32_t container, std::string_view key, std::size_t value_size) {
  const auto cost = kDirtyCost + key.size() + value_size;
  cost_ += cost;
  for (auto* items : {&now_.items[container], &later_.items[container]}) {
    const auto found = items->find(key);
    if (found == items->end()) continue;
    cost_ -= found->second.cost;
    found->second.cost = cost;
    return;
  }
  later_.items[container].try_emplace(std::string(key)).first->second.cost = cost;
  ++later_.item_count;
  memory_ += memory_of(key);
}

const std::pair<const std::string, DirtySet::Item>* DirtySet::first_item(
    std::uint32_t& container) {
  if (now_.item_count == 0) return nullptr;
  for (container = 0; now_.items[container].empty(); ++container) {
  }
  return &*now_.items[container].begin();
}

void DirtySet::save(std::uint32_t container, std::string_view key,
                    std::optional<std::string_view> value) {
  auto& items = now_.items[container];
  const auto found = items.find(key);
  if (found == items.end() || found->second.saved) return;
  found->second.saved = true;
  if (!value) return;
  found->second.value = *value;
  memory_ += value->size();
}

void DirtySet::drop_first_item(std::uint32_t container) {
  auto& items = now_.items[container];
  const auto first = items.begin();
  --now_.item_count;
  cost_ -= first->second.cost;
  memory_ -= memory_of(first->first);
  if (first->second.value) memory_ -= first->second.value->size();
  items.erase(first);
}

bool DirtySet::Session::has(std::uint32_t cell) const {
  return cell / 64 < cells.size() && (cells[cell / 64] >> cell % 64 & 1) != 0;
}

DirtySet::Session* DirtySet::now_at(std::uint32_t place) {
  const auto found = now_.sessions.find(place);
  return found == now_.sessions.end() ? nullptr : &found->second;
}

DirtySet::Session& DirtySet::later_at(std::uint32_t place) {
  const auto [at, fresh] = later_.sessions.try_emplace(place);
  if (fresh) memory_ += kSessionMemory;
  return at->second;
}

// What of a session is not in this pass yet waits for the next one, or a busy session would keep
// the pass from ending. But replies of this pass must not come before their session.
void DirtySet::session(std::uint32_t place, bool replaced) {
  auto* now = now_at(place);
  if (now != nullptr && now->itself) return;
  auto& session = now != nullptr && replaced ? *now : later_at(place);
  if (session.itself) return;
  session.itself = true;
  session.cost += kDirtyCost;
  cost_ += kDirtyCost;
}

void DirtySet::cell(std::uint32_t place, std::uint32_t cell, std::size_t reply_size) {
  if (const auto* now = now_at(place); now != nullptr && now->has(cell)) return;
  auto& session = later_at(place);
  if (session.has(cell)) return;
  const auto word = cell / 64;
  if (word >= session.cells.size()) {
    memory_ += (word + 1 - session.cells.size()) * 8;
    session.cells.resize(word + 1);
  }
  session.cells[word] |= std::uint64_t{1} << cell % 64;
  session.cost += kReplyCost + reply_size;
  cost_ += kReplyCost + reply_size;
}

DirtySet::Session* DirtySet::first_session(std::uint32_t& place) {
  if (now_.sessions.empty()) return nullptr;
  place = now_.sessions.begin()->first;
  return &now_.sessions.begin()->second;
}

void DirtySet::drop_first_session() {
  const auto first = now_.sessions.begin();
  cost_ -= first->second.cost;
  memory_ -= kSessionMemory + first->second.cells.size() * 8;
  now_.sessions.erase(first);
}

void DirtySet::clear() {
  now_ = Pass();
  later_ = Pass();
  cost_ = memory_ = 0;
}

}  // namespace mpaxos
