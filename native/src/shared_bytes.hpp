// Bytes that several may read, and what keeps them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace mpaxos {

struct SharedBytes {
  std::shared_ptr<const void> owner;
  std::string_view bytes;

  static SharedBytes of(std::string text) {
    auto owner = std::make_shared<const std::string>(std::move(text));
    const std::string_view bytes = *owner;
    return {std::move(owner), bytes};
  }
};

}  // namespace mpaxos
