#include "reserve.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "descriptor.hpp"

namespace mpaxos {
namespace {

constexpr std::uint64_t kLargePage = 2 << 20;
constexpr std::uint64_t kStep = 16 * kLargePage;
constexpr int kCollapse = 25;  // MADV_COLLAPSE of Linux 6.1, newer than some C libraries

// Asks for large pages of a file on a tmpfs. Of such files only a mount with `huge=` makes them by
// itself; but they can be had for a part of a file that is mapped, if the part is not quite empty.
class LargePages {
 public:
  LargePages(int file, std::uint64_t size) : file_(file) {
    struct statfs info {};
    if (size < kLargePage || ::fstatfs(file, &info) != 0 || info.f_type != TMPFS_MAGIC) return;
    // Room to begin at a multiple of a large page.
    reserved_ = size + kLargePage;
    void* room = ::mmap(nullptr, reserved_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) return;
    room_ = static_cast<char*>(room);
    const auto at = (reinterpret_cast<std::uintptr_t>(room) + kLargePage - 1) & -kLargePage;
    void* mapped = ::mmap(reinterpret_cast<void*>(at), size, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_FIXED, file, 0);
    if (mapped != MAP_FAILED) begin_ = static_cast<char*>(mapped);
  }
  ~LargePages() {
    if (room_ != nullptr) ::munmap(room_, reserved_);
  }
  LargePages(const LargePages&) = delete;
  LargePages& operator=(const LargePages&) = delete;

  // Zeroed memory for an empty part, whole large pages. False where there is none for all of it.
  bool fill(std::uint64_t offset, std::uint64_t size) {
    if (begin_ == nullptr || size % kLargePage != 0) return false;
    for (auto at = offset; at < offset + size; at += kLargePage) {
      // Not through the mapping: a tmpfs that is full would answer with SIGBUS.
      if (::pwrite(file_, "", 1, static_cast<off_t>(at)) != 1) return false;
    }
    if (::madvise(begin_ + offset, size, kCollapse) == 0) return true;
    // Something else may have held a page for a moment; without large pages it costs too much to
    // go on looking for them.
    if (errno != EAGAIN && errno != EBUSY) begin_ = nullptr;
    return false;
  }

 private:
  int file_;
  char* room_ = nullptr;
  std::uint64_t reserved_ = 0;
  char* begin_ = nullptr;
};

// It takes longer than to reserve blocks, but then the memory of a tmpfs is ready to be mapped, 16
// pages at a time, where each page would have to be zeroed when it is first touched: that saves
// more than it cost when an image fills the pool.
int write_zeros(int file, std::uint64_t offset, std::uint64_t size) {
  const std::string zeros(std::size_t{1} << 20, '\0');
  for (const auto end = offset + size; offset < end;) {
    const auto part = std::min<std::uint64_t>(end - offset, zeros.size());
    const auto written = ::pwrite(file, zeros.data(), part, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return written < 0 ? errno : ENOSPC;
    offset += static_cast<std::uint64_t>(written);
  }
  return 0;
}

int allocate(int file, std::uint64_t offset, std::uint64_t size) {
  int error = EINTR;
  while (error == EINTR) {
    error = ::posix_fallocate(file, static_cast<off_t>(offset), static_cast<off_t>(size));
  }
  return error;
}

}  // namespace

int reserve(int file, std::uint64_t size, Pages pages) {
  // Ahead, as everything that is free would be filled before it shows.
  struct statfs info {};
  if (::fstatfs(file, &info) == 0 && info.f_blocks > 0 &&  // none: without a limit
      info.f_bavail * static_cast<std::uint64_t>(info.f_bsize) < size) {
    return ENOSPC;
  }
  if (::ftruncate(file, static_cast<off_t>(size)) != 0) return errno;
  LargePages large(file, pages == Pages::kAsTheyCome ? 0 : size);
  for (std::uint64_t offset = 0; offset < size;) {
    // What is left behind the last whole large page comes alone.
    const auto left = size - offset;
    const auto part =
        left < kLargePage ? left : std::min<std::uint64_t>(left & -kLargePage, kStep);
    if (!large.fill(offset, part)) {
      const int error = pages == Pages::kTouched ? write_zeros(file, offset, part)
                                                 : allocate(file, offset, part);
      if (error != 0) return error;
    }
    offset += part;
  }
  return 0;
}

bool gives_large_pages(const std::string& directory) {
  const Descriptor file(directory, O_TMPFILE | O_RDWR, 0600);
  if (file.get() < 0 || ::ftruncate(file.get(), kLargePage) != 0) return false;
  return LargePages(file.get(), kLargePage).fill(0, kLargePage);
}

}  // namespace mpaxos
