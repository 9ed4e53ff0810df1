// Batches of anything, applied: session entries and requests of the key-value service, as any
// client may send them. They are answered; the state stays consistent; nothing is thrown.
//
// Input: entries in wire form (docs/wire.md). Sessions 1 to 4 stand for sessions that are open, so
// that chance finds them. An entry of kind 2 (close) also ends the batch.
#include <cstring>
#include <memory>

#include "check.hpp"
#include "engine.hpp"
#include "error.hpp"
#include "scratch_pool.hpp"

using namespace mpaxos;
using fuzz::require;

namespace {

constexpr std::size_t kRunsPerPool = 200;  // then a fresh one: its log of the past stays short

struct World {
  fuzz::ScratchPool scratch;
  std::unique_ptr<FilePool> pool = scratch.open();
  Engine engine{*pool};
  std::uint64_t sessions[4] = {};
  std::uint64_t number = 0;

  ReplySet apply(const BatchPtr& batch) {
    return engine.apply_kv(engine.slot() + 1, ++number, batch);
  }
  void open_sessions() {
    std::uint32_t window = 4;
    for (auto& session : sessions) {
      const std::string payload(reinterpret_cast<const char*>(&window), sizeof window);
      const auto replies = apply(fuzz::batch_of({{0, 5, 0, kEntryOpen, payload}}, ++number));
      require(replies.size() == 1 && replies.at(0).status == kStatusOpened, "a session opens");
      std::memcpy(&session, replies.at(0).payload.data(), sizeof session);
    }
  }
  // What is counted is what is there.
  void check() {
    std::uint64_t used = 0;
    std::uint64_t count = 0;
    const auto map = engine.tree(engine.container("data"));
    std::string before;
    Tree::Cursor cursor(map, {});
    while (const auto* leaf = cursor.next()) {
      require(count == 0 || before < leaf->key(), "items are in the order of their keys");
      require(map.find(leaf->key()) == leaf, "an item that is listed is found");
      before = leaf->key();
      used += kItemOverhead + leaf->key_length + leaf->value_length;
      ++count;
    }
    require(count == map.count(), "the number of items is counted right");
    require(used == engine.state_used(), "the size of the state is counted right");
    require(used <= fuzz::kPoolLimits.state_limit, "the state keeps its limit");
    engine.state_digest();
  }
};

World& world() {
  static std::unique_ptr<World> current;
  static std::size_t runs = 0;
  if (!current || ++runs % kRunsPerPool == 0) {
    current = nullptr;
    current = std::make_unique<World>();
  }
  return *current;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto& w = world();
  w.open_sessions();
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  BatchBuilder open;
  BatchBuilder queries;
  const auto apply = [&] {
    if (open.count() == 0) return;
    const auto batch = open.seal(1, 1, ++w.number);
    const auto replies = w.apply(batch);
    require(replies.size() <= batch->header().count, "at most one reply to an entry");
    for (std::size_t i = 0; i < replies.size(); ++i) {
      require(replies.at(i).status <= kStatusOpened, "a reply has a known status");
    }
  };
  while (rest.size() >= sizeof(EntryHeader)) {
    EntryHeader header;
    std::memcpy(&header, rest.data(), sizeof header);
    rest.remove_prefix(sizeof header);
    header.length = std::min<std::uint32_t>(header.length, static_cast<std::uint32_t>(rest.size()));
    header.kind %= kEntryQuery + 1;
    std::memset(header.reserved, 0, sizeof header.reserved);
    if (header.session >= 1 && header.session <= 4) header.session = w.sessions[header.session - 1];
    auto& batch = header.kind == kEntryQuery && header.lowest % 2 == 0 ? queries : open;
    batch.append(header, rest.substr(0, header.length));
    rest.remove_prefix(header.length);
    if (header.kind == kEntryClose) apply();
  }
  apply();
  if (queries.count() > 0) {
    const auto batch = queries.seal(1, 1, ++w.number);
    require(w.engine.query_kv(*batch).size() == batch->header().count, "queries are answered");
  }
  w.check();
  return 0;
}
