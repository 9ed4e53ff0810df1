// Bytes of Python and views of them.
#pragma once

#include <nanobind/nanobind.h>

#include <string_view>

namespace mpaxos {

// Valid while `data` is.
inline std::string_view as_view(const nanobind::bytes& data) { return {data.c_str(), data.size()}; }

inline nanobind::bytes as_bytes(std::string_view data) {
  return nanobind::bytes(data.data(), data.size());
}

}  // namespace mpaxos
