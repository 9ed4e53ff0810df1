// Records what a crash could have left of one pool file: see recorder.cpp.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace mpaxos::crash {

inline constexpr std::size_t kLine = 64;
inline constexpr std::size_t kPage = 4096;

// Why an event was written. Crash points are before each of them.
enum class Event : std::uint32_t {
  kFence = 1,   // a store fence: what was flushed before is durable after it
  kMark = 2,    // the program said that an operation is done; nothing becomes durable
  kSync = 3,    // fsync of the pool file: everything is durable after it
  kRename = 4,  // the pool file gets its final name
  kSyncDirectory = 5,  // fsync of its directory: the name is durable after it
};

// The file format of a trace: an EventHeader, then `lines` times a LineHeader with its versions of
// 64 bytes each.
struct EventHeader {
  std::uint32_t kind;
  std::uint32_t mark;  // the last mark before this event
  std::uint32_t lines;
  std::uint32_t reserved;
};
struct LineHeader {
  std::uint64_t offset;   // in the file
  std::uint32_t versions;  // contents since the last durable one, oldest first
  std::uint32_t flushed;   // so many of them were flushed; the rest may stay in the cache for ever
};

// The part of the process that knows where the watched file is mapped and what is durable of it.
// One file at a time; calls of one thread.
class Recorder {
 public:
  static Recorder& instance();

  void watch(const std::string& path, const std::string& trace);
  void stop();
  void mark(std::uint32_t number);

  void mapped(int fd, void* address, std::size_t length, off_t offset);
  void unmapped(void* address, std::size_t length);
  void flush(const void* address, std::size_t length);
  void fence();
  void synced(int fd);
  void renamed(const char* from, const char* to);

  // The address at which the whole watched file is mapped; nullptr when it is not.
  void* base() const;
  bool failed() const { return failed_; }

 private:
  struct Alias {
    char* address;
    std::size_t length;
    std::size_t offset;
  };
  struct Line {
    std::vector<std::string> versions;
    std::size_t flushed = 0;
  };

  bool is_watched(int fd) const;
  bool ready();
  void scan();
  void emit(Event event);
  void settle(bool everything);

  std::string path_;
  std::vector<Alias> aliases_;
  std::FILE* trace_ = nullptr;
  char* view_ = nullptr;  // of our own: whatever alias a store goes through is seen here
  std::vector<char> shadow_;
  std::map<std::size_t, Line> lines_;  // by number of the line: whatever differs from the shadow
  std::uint32_t mark_ = 0;
  bool failed_ = false;
};

}  // namespace mpaxos::crash
