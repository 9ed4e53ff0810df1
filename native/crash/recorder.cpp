// The persistent memory of one process, as a power failure would see it.
//
// Stores go to the processor's cache. A line of 64 bytes reaches memory when it is flushed and a
// fence follows, or at any moment before, because caches evict lines as they please. So at any
// point a crash leaves, of each line, its last certainly durable content or any content it had
// since. The shadow holds the durable contents; at each fence (and at marks, where the program
// tells somebody that something is done) the mapping is compared with it and the differences are
// written to a trace, from which tests/crash builds the images.
//
// See Y. Xu et al. and PMDK's pmreorder(1) for the same idea on traces of Valgrind.
#include "recorder.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace mpaxos::crash {

Recorder& Recorder::instance() {
  static Recorder recorder;
  return recorder;
}

void Recorder::watch(const std::string& path, const std::string& trace) {
  stop();
  path_ = path;
  trace_ = trace.empty() ? nullptr : std::fopen(trace.c_str(), "wb");
  failed_ = !trace.empty() && trace_ == nullptr;
  mark_ = 0;
}

void Recorder::stop() {
  if (trace_ != nullptr && std::fclose(trace_) != 0) failed_ = true;
  trace_ = nullptr;
  // A system call, because munmap() is one of the functions that end up here.
  if (view_ != nullptr) ::syscall(SYS_munmap, view_, shadow_.size());
  view_ = nullptr;
  shadow_.clear();
  lines_.clear();
  path_.clear();
}

void Recorder::mark(std::uint32_t number) {
  mark_ = number;
  if (!ready()) return;
  scan();
  emit(Event::kMark);
}

bool Recorder::is_watched(int fd) const {
  struct stat mine {};
  struct stat watched {};
  return !path_.empty() && ::stat(path_.c_str(), &watched) == 0 && ::fstat(fd, &mine) == 0 &&
         mine.st_ino == watched.st_ino && mine.st_dev == watched.st_dev;
}

void Recorder::mapped(int fd, void* address, std::size_t length, off_t offset) {
  if (!is_watched(fd)) return;
  aliases_.push_back(
      {static_cast<char*>(address), length, static_cast<std::size_t>(offset)});
  ready();  // before the first store
}

void Recorder::unmapped(void* address, std::size_t length) {
  // libpmemobj unmaps whole mappings only.
  const auto* first = static_cast<char*>(address);
  std::erase_if(aliases_, [&](const Alias& alias) {
    return alias.address >= first && alias.address < first + length;
  });
}

void* Recorder::base() const {
  const auto found = std::find_if(aliases_.begin(), aliases_.end(), [this](const Alias& alias) {
    return alias.offset == 0 && alias.length > kPage;
  });
  return found == aliases_.end() ? nullptr : found->address;
}

// Whether recording is possible; maps the file when it exists for the first time.
bool Recorder::ready() {
  if (trace_ == nullptr || failed_) return false;
  if (view_ != nullptr) return true;
  if (aliases_.empty()) return false;
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat info {};
  if (fd < 0 || ::fstat(fd, &info) != 0) {
    failed_ = true;
    return false;
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  auto* view = reinterpret_cast<char*>(
      ::syscall(SYS_mmap, nullptr, size, PROT_READ, MAP_SHARED, fd, 0));
  ::close(fd);
  if (view == MAP_FAILED) {
    failed_ = true;
    return false;
  }
  view_ = view;
  // Recording starts when the file is first mapped, so what it holds now was written by calls of
  // the file system or before this process: as durable as it gets.
  shadow_.assign(view_, view_ + size);
  return true;
}

// Notes the present contents of all lines that differ from the durable ones.
void Recorder::scan() {
  for (auto& [number, line] : lines_) {
    const std::string now(view_ + number * kLine, kLine);
    if (line.versions.empty() || line.versions.back() != now) line.versions.push_back(now);
  }
  for (std::size_t page = 0; page < shadow_.size(); page += kPage) {
    if (std::memcmp(view_ + page, shadow_.data() + page, kPage) == 0) continue;
    for (auto at = page; at < page + kPage; at += kLine) {
      if (std::memcmp(view_ + at, shadow_.data() + at, kLine) == 0) continue;
      auto& line = lines_[at / kLine];
      if (line.versions.empty()) line.versions.emplace_back(view_ + at, kLine);
    }
  }
}

void Recorder::flush(const void* address, std::size_t length) {
  const auto* from = static_cast<const char*>(address);
  for (const auto& alias : aliases_) {
    if (from < alias.address || from >= alias.address + alias.length || !ready()) continue;
    const auto start = alias.offset + static_cast<std::size_t>(from - alias.address);
    const auto end = std::min(start + length, shadow_.size());
    for (auto number = start / kLine; number * kLine < end; ++number) {
      const auto* now = view_ + number * kLine;
      auto found = lines_.find(number);
      if (found == lines_.end()) {
        if (std::memcmp(now, shadow_.data() + number * kLine, kLine) == 0) continue;
        found = lines_.emplace(number, Line{}).first;
      }
      auto& line = found->second;
      if (line.versions.empty() || std::memcmp(line.versions.back().data(), now, kLine) != 0) {
        line.versions.emplace_back(now, kLine);
      }
      line.flushed = line.versions.size();
    }
    return;
  }
}

void Recorder::fence() {
  if (!ready()) return;
  scan();
  emit(Event::kFence);
  settle(false);
}

void Recorder::emit(Event event) {
  const EventHeader header{static_cast<std::uint32_t>(event), mark_,
                           static_cast<std::uint32_t>(lines_.size()), 0};
  std::fwrite(&header, sizeof header, 1, trace_);
  for (const auto& [number, line] : lines_) {
    const LineHeader head{number * kLine, static_cast<std::uint32_t>(line.versions.size()),
                          static_cast<std::uint32_t>(line.flushed)};
    std::fwrite(&head, sizeof head, 1, trace_);
    for (const auto& version : line.versions) std::fwrite(version.data(), kLine, 1, trace_);
  }
  if (std::ferror(trace_)) failed_ = true;
}

// What was flushed is durable now, or with `everything` all there is.
void Recorder::settle(bool everything) {
  for (auto it = lines_.begin(); it != lines_.end();) {
    auto& [number, line] = *it;
    if (everything) line.flushed = line.versions.size();
    if (line.flushed > 0) {
      std::memcpy(shadow_.data() + number * kLine, line.versions[line.flushed - 1].data(), kLine);
      line.versions.erase(line.versions.begin(),
                          line.versions.begin() + static_cast<long>(line.flushed));
      line.flushed = 0;
    }
    it = line.versions.empty() ? lines_.erase(it) : std::next(it);
  }
}

void Recorder::synced(int fd) {
  if (!ready()) return;
  struct stat info {};
  if (::fstat(fd, &info) != 0) return;
  const bool directory = S_ISDIR(info.st_mode);
  if (!directory && !is_watched(fd)) return;
  scan();
  emit(directory ? Event::kSyncDirectory : Event::kSync);
  if (!directory) settle(true);
}

void Recorder::renamed(const char* from, const char* to) {
  if (!ready() || path_ != from) return;
  scan();
  emit(Event::kRename);
  path_ = to;
}

}  // namespace mpaxos::crash
