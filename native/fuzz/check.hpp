// What a fuzz target does when a property does not hold.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace mpaxos::fuzz {

// abort() makes libFuzzer keep the input.
inline void require(bool condition, const char* property) {
  if (condition) return;
  std::fprintf(stderr, "\nthe property does not hold: %s\n", property);
  std::abort();
}

}  // namespace mpaxos::fuzz
