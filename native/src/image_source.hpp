// Takes a consistent image of an engine's whole state while commands go on. See docs/image.md.
//
// A sweep with dirty tracking, as in the pre-copy of live migration (C. Clark et al., "Live
// Migration of Virtual Machines", NSDI 2005, section 3): a cursor walks all containers in key
// order and then the session table; what a slot changes behind the cursor is sent again; what it
// changes ahead of it needs nothing. When sending again does not make what is left much smaller any
// more, the image is cut: its position is fixed, and of the items that are left, the few that
// change before they are sent are copied. So the image is of a late slot and always ends. Nothing
// is forked or kept in the pool, and a change ahead of the cursor costs a comparison.
#pragma once

#include <deque>
#include <optional>
#include <string>

#include "engine.hpp"
#include "image_dirty.hpp"
#include "image_format.hpp"
#include "image_watch.hpp"

namespace mpaxos {

struct ImageBounds {
  std::uint64_t max_dirty;  // bytes of DRAM for what is to be sent again
};

struct ImageProgress {
  std::uint64_t chunks;   // made
  std::uint64_t bytes;    // of them
  std::uint64_t items;    // passed by the cursor
  std::uint64_t total;    // items in the state now
  std::uint64_t again;    // items and sessions sent again
  std::uint64_t dirty;    // items and sessions to be sent again
  std::uint64_t memory;   // bytes of the dirty set
};

// A value or reply too long for one chunk, copied so that it cannot change between its parts.
struct StagedValue {
  std::string bytes;
  std::size_t sent = 0;
  bool is_reply = false;
  std::uint32_t container = 0;
  std::string key;
  ReplyRecord reply{};
};

// All calls come from the thread that applies, between two slots.
class ImageSource final : public ImageWatcher {
 public:
  // Throws kImage when the engine has as many images under way as it may.
  ImageSource(Engine& engine, const ImageBounds& bounds);
  ~ImageSource() override;
  ImageSource(const ImageSource&) = delete;
  ImageSource& operator=(const ImageSource&) = delete;

  // The next chunk; nothing after the final one. Takes about as long as copying `max_bytes`, and
  // once, at the cut, as long as copying the sessions that were used meanwhile. Throws kImage when
  // the image was given up: the dirty set outgrew its bound because chunks are asked for too
  // seldom.
  std::optional<std::string> next(std::size_t max_bytes);
  void close();

  std::uint64_t image() const { return image_; }
  // The position that the image is of is known; the engine's changes do not matter any more.
  bool cut() const { return state_ == State::kCut || state_ == State::kDone; }
  ImageProgress progress() const;

  void item_changes(const ContainerRoot& container, std::string_view key, const Leaf* old,
                    std::optional<std::string_view> value) override;
  void session_changes(std::uint32_t place, std::uint32_t cell, std::size_t size) override;
  void changes_taken_back() override { state_ = State::kTakenBack; }

 private:
  enum class State { kSweeping, kCut, kDone, kOverrun, kTakenBack, kClosed };
  // A chunk under construction and what has been spent on it.
  struct Draft {
    explicit Draft(std::size_t max_bytes) : writer(max_bytes + 1024), limit(max_bytes) {}
    ChunkWriter writer;
    std::size_t limit;
    std::uint64_t named = 0;
    std::uint64_t extra = 0;  // cost beside the bytes
    bool full = false;

    std::uint64_t cost() const { return writer.size() + extra; }
    std::size_t room() const { return limit > writer.size() ? limit - writer.size() : 0; }
  };

  bool swept() const { return container_ == kMaxContainers && place_ == places_; }
  bool passed(std::uint32_t container, std::string_view key) const;
  void fill(Draft& draft);
  void push_staged(Draft& draft);
  void drain(Draft& draft, std::uint64_t cost);
  bool drain_session(Draft& draft, std::uint32_t place, DirtySet::Session& dirty);
  void sweep_items(Draft& draft);
  void sweep_sessions(Draft& draft);
  bool fits(Draft& draft, std::uint32_t container, std::size_t size);
  bool stage(Draft& draft, std::uint32_t container, std::string_view key, std::string_view value);
  bool put(Draft& draft, std::uint32_t container, std::string_view key, std::string_view value);
  bool put(Draft& draft, std::uint32_t container, const Leaf& leaf);
  bool drain_item(Draft& draft, std::uint32_t container, std::string_view key,
                  const DirtySet::Item& item);
  bool erase(Draft& draft, std::uint32_t container, std::string_view key);
  bool put_session(Draft& draft, std::uint32_t place, const Sessions::View& view);
  bool put_reply(Draft& draft, std::uint32_t place, const Sessions::View& view,
                 std::uint32_t cell);
  std::string finish(Draft& draft, bool final);
  bool try_end(Draft& draft);
  void next_pass(std::size_t max_bytes);
  void cut_now();
  std::string_view name_of(std::uint32_t container) const;
  const ContainerRoot& root_of(std::uint32_t container) const;

  Engine& engine_;
  const EngineRoot& root_;
  const ImageBounds bounds_;
  const std::uint64_t image_;
  State state_ = State::kSweeping;

  // The cursor: everything up to (container_, key_), then up to (place_, cell_), has been sent.
  std::uint32_t container_ = 0;
  bool inside_ = false;  // key_ is one of container_
  std::string key_;
  std::uint32_t place_ = 0;
  std::uint32_t places_;
  std::uint32_t cell_ = 0;     // next cell of the session at place_
  std::uint64_t session_ = 0;  // id of the session at place_, once it has been sent

  DirtySet dirty_;
  std::optional<StagedValue> staged_;
  std::deque<std::string> ready_;  // chunks made and not handed out
  std::uint64_t items_sum_ = 0;    // over what the cursor has passed, as it is now
  std::uint64_t pass_cost_ = UINT64_MAX;  // of the pass since the cursor reached the end
  EndRecord end_{};                       // once cut
  std::vector<ContainerCount> counts_;
  std::uint64_t number_ = 0;
  ImageProgress progress_{};
};

}  // namespace mpaxos
