// The memory of a new file: all of it reserved, in large pages where there are such.
#pragma once

#include <cstdint>
#include <string>

namespace mpaxos {

// Reserves `size` bytes for a new, empty file, which reads as zeros then; a full device shows now
// and not as SIGBUS in the middle of work. On a tmpfs it gets pages of 2 MiB as far as the kernel
// has them, whatever the mount says. With `touched` none of it has to be zeroed when it is first
// used. Returns 0, or what stood in the way as an errno; the file is to be removed then.
int reserve(int file, std::uint64_t size, bool touched);

// True when reserve() gets large pages for files in this directory, with which it takes no longer.
bool gives_large_pages(const std::string& directory);

}  // namespace mpaxos
