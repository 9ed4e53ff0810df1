// How the engine tells the images being taken of it (image_source.hpp) what a slot changes. When
// none is being taken this costs one comparison per change.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "pool.hpp"

namespace mpaxos {

struct Leaf;

// Instead of a cell: its `lowest` or `used` moved; it was opened or closed.
inline constexpr std::uint32_t kSessionTouched = UINT32_MAX;
inline constexpr std::uint32_t kSessionReplaced = UINT32_MAX - 1;

class ImageWatcher {
 public:
  virtual ~ImageWatcher() = default;
  // Called before the change: `old` is the item as it still is (nullptr: none), `value` what it
  // becomes (nothing: it is removed).
  virtual void item_changes(const ContainerRoot& container, std::string_view key, const Leaf* old,
                            std::optional<std::string_view> value) = 0;
  // A cell of the session at `place`, or the session itself, was written; `size` of the reply.
  virtual void session_changes(std::uint32_t place, std::uint32_t cell, std::size_t size) = 0;
  // Changes that were told of did not happen: the slot is applied anew.
  virtual void changes_taken_back() = 0;
};

inline constexpr std::size_t kMaxImages = 2;

class Watchers {
 public:
  bool any() const { return count_ > 0; }
  std::size_t count() const { return count_; }
  bool add(ImageWatcher* watcher) {
    if (count_ == kMaxImages) return false;
    list_[count_++] = watcher;
    return true;
  }
  void remove(const ImageWatcher* watcher) {
    for (std::size_t i = 0; i < count_; ++i) {
      if (list_[i] != watcher) continue;
      list_[i] = list_[--count_];
      return;
    }
  }
  void item(const ContainerRoot& container, std::string_view key, const Leaf* old,
            std::optional<std::string_view> value) const {
    for (std::size_t i = 0; i < count_; ++i) list_[i]->item_changes(container, key, old, value);
  }
  void session(std::uint32_t place, std::uint32_t cell, std::size_t size) const {
    for (std::size_t i = 0; i < count_; ++i) list_[i]->session_changes(place, cell, size);
  }
  void taken_back() const {
    for (std::size_t i = 0; i < count_; ++i) list_[i]->changes_taken_back();
  }

 private:
  std::array<ImageWatcher*, kMaxImages> list_{};
  std::size_t count_ = 0;
};

}  // namespace mpaxos
