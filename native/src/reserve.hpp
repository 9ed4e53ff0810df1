// The memory of a new file: all of it reserved, in large pages where there are such.
#pragma once

#include <cstdint>
#include <string>

namespace mpaxos {

enum class Pages {
  kAsTheyCome,  // zeroed when they are first used
  kLarge,       // on a tmpfs of 2 MiB, zeroed now, as far as the kernel has them
  kTouched      // the same, and where there are no large ones, small ones are zeroed now
};

// Reserves `size` bytes for a new, empty file, which reads as zeros then; a full device shows now
// and not as SIGBUS in the middle of work. Returns 0, or what stood in the way as an errno; the
// file is to be removed then.
int reserve(int file, std::uint64_t size, Pages pages);

// True when reserve() gets large pages for files in this directory, with which it takes no longer.
bool gives_large_pages(const std::string& directory);

}  // namespace mpaxos
