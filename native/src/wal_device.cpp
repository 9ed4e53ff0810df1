#include "wal_device.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <random>
#include <utility>

#include "descriptor.hpp"
#include "error.hpp"
#include "wal_format.hpp"

namespace mpaxos {
namespace {

[[noreturn]] void failed(const std::string& what, const std::string& path, int error) {
  throw Error(ErrorKind::kStorage, "cannot " + what + " " + path + ": " + std::strerror(error) +
                                       ". The replica stops, as it cannot know what of its last "
                                       "writes is on the device; check the device, then start it");
}

// Returns 0 or an errno.
int write_all(int fd, std::uint64_t offset, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto done = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return done < 0 ? errno : EIO;
    bytes.remove_prefix(static_cast<std::size_t>(done));
    offset += static_cast<std::uint64_t>(done);
  }
  return 0;
}

class Files : public WalDevice {
 public:
  Files(const std::string& directory, std::uint32_t files) : directory_(directory) {
    for (std::uint32_t file = 0; file < files; ++file) {
      const auto path = wal_file_path(directory, file);
      files_.emplace_back(path, O_RDWR);
      if (files_.back().get() < 0) {
        throw Error(ErrorKind::kStorageMissing,
                    path + " is missing or cannot be opened: " + std::strerror(errno) +
                        ". An empty file is not put in its place: a replica that forgot what it "
                        "promised could make the cluster lose decided commands. Restore the log");
      }
    }
  }

  void write(std::uint32_t file, std::uint64_t offset, std::string_view bytes) override {
    const int error = write_all(files_[file].get(), offset, bytes);
    if (error != 0) failed("write", wal_file_path(directory_, file), error);
  }

  void sync(std::uint32_t file) override {
    if (::fdatasync(files_[file].get()) != 0) {
      failed("sync", wal_file_path(directory_, file), errno);
    }
  }

  void read(std::uint32_t file, std::uint64_t offset, char* into, std::uint64_t size) override {
    while (size > 0) {
      const auto got = ::pread(files_[file].get(), into, size, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) failed("read", wal_file_path(directory_, file), got < 0 ? errno : EIO);
      into += got;
      offset += static_cast<std::uint64_t>(got);
      size -= static_cast<std::uint64_t>(got);
    }
  }

  void forget(std::uint32_t file, std::uint64_t offset, std::uint64_t size) override {
    // Advice: a file system without such a cache (tmpfs) has nothing to forget.
    (void)::posix_fadvise(files_[file].get(), static_cast<off_t>(offset),
                          static_cast<off_t>(size), POSIX_FADV_DONTNEED);
  }

  std::uint64_t size(std::uint32_t file) override {
    struct stat info {};
    if (::fstat(files_[file].get(), &info) != 0) {
      failed("look at", wal_file_path(directory_, file), errno);
    }
    return static_cast<std::uint64_t>(info.st_size);
  }

 private:
  std::string directory_;
  std::vector<Descriptor> files_;
};

std::string mib(std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

std::string parent_of(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

std::optional<std::uint64_t> free_bytes(const std::string& directory) {
  struct statvfs info {};
  if (::statvfs(directory.c_str(), &info) != 0) return std::nullopt;
  return std::uint64_t{info.f_bavail} * info.f_frsize;
}

[[noreturn]] void no_room(const WalSpec& spec, int error) {
  const auto parent = parent_of(spec.path);
  const auto bytes = free_bytes(parent);
  const auto free = bytes ? mib(*bytes) : "unknown";
  throw Error(ErrorKind::kStorageFull,
              "cannot make a log of " + mib(spec.files * spec.segment_size) + " in " + parent +
                  " (" + free + " free): " + std::strerror(error) +
                  ". Make room, or choose a smaller log size");
}

void sync_directory(const std::string& path, const WalSpec& spec) {
  const Descriptor directory(path, O_RDONLY | O_DIRECTORY);
  if (directory.get() < 0 || ::fsync(directory.get()) != 0) no_room(spec, errno);
}

void check_sizes(const WalSpec& spec) {
  if (spec.files < kWalFewest || spec.files > kWalMost || spec.segment_size < kWalSmallest ||
      spec.segment_size % kWalBlock != 0 || spec.segment_size > (std::uint64_t{1} << 30)) {
    throw Error(ErrorKind::kConfig,
                "a log has 3 to 65536 segments of 64 KiB to 1 GiB each, a multiple of 4 KiB");
  }
}

// Blocks are reserved and also written: writing to a block that was only reserved changes the
// file's metadata, which makes its fdatasync twice as slow.
void write_file(const WalSpec& spec, const std::string& path, const SegmentHeader& header) {
  const Descriptor file(path, O_CREAT | O_EXCL | O_RDWR, 0600);
  if (file.get() < 0) no_room(spec, errno);
  int error = ::posix_fallocate(file.get(), 0, static_cast<off_t>(spec.segment_size));
  if (error != 0) no_room(spec, error);
  const auto part = std::min<std::uint64_t>(spec.segment_size, 1 << 20);
  std::string zeros(part, '\0');
  for (std::uint64_t at = 0; at < spec.segment_size && error == 0; at += part) {
    const auto size = std::min(part, spec.segment_size - at);
    error = write_all(file.get(), at, std::string_view(zeros).substr(0, size));
  }
  if (error == 0) {
    error = write_all(file.get(), 0, {reinterpret_cast<const char*>(&header), sizeof header});
  }
  if (error == 0 && ::fsync(file.get()) != 0) error = errno;
  if (error != 0) no_room(spec, error);
}

SegmentHeader first_header(const WalSpec& spec) {
  std::random_device random;
  SegmentHeader header{};
  std::memcpy(header.magic, kWalMagic, sizeof header.magic);
  header.format = kWalFormat;
  header.replica = spec.replica;
  std::memcpy(header.cluster, spec.cluster, sizeof header.cluster);
  header.log = std::uint64_t{random()} << 32 | random();
  header.files = spec.files;
  header.size = spec.segment_size;
  return header;
}

}  // namespace

std::string wal_file_path(const std::string& directory, std::uint32_t file) {
  char name[32];
  std::snprintf(name, sizeof name, "/segment-%05u", file);
  return directory + name;
}

std::unique_ptr<WalDevice> open_wal_files(const std::string& directory, std::uint32_t files) {
  return std::make_unique<Files>(directory, files);
}

void WalTrace::note(WalCall call) {
  const std::lock_guard lock(mutex_);
  if (until_failure_ == 0) {
    until_failure_ = -1;
    failed(call.what == 'w' ? "write" : "sync", "a traced file", EIO);
  }
  if (until_failure_ > 0) --until_failure_;
  calls_.push_back(std::move(call));
}

void WalTrace::write(std::uint32_t file, std::uint64_t offset, std::string_view bytes) {
  note({'w', file, offset, std::string(bytes)});
  device_->write(file, offset, bytes);
}

void WalTrace::sync(std::uint32_t file) {
  note({'s', file, 0, {}});
  device_->sync(file);
}

void WalTrace::read(std::uint32_t file, std::uint64_t offset, char* into, std::uint64_t size) {
  device_->read(file, offset, into, size);
}

void WalTrace::forget(std::uint32_t file, std::uint64_t offset, std::uint64_t size) {
  device_->forget(file, offset, size);
}

std::vector<WalCall> WalTrace::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(calls_, {});
}

void WalTrace::fail_after(std::int64_t calls) {
  const std::lock_guard lock(mutex_);
  until_failure_ = calls;
}

void create_wal(const WalSpec& spec) {
  namespace fs = std::filesystem;
  check_sizes(spec);
  if (fs::exists(fs::symlink_status(spec.path))) {
    throw Error(ErrorKind::kStorageForeign,
                spec.path + " exists already: it is not overwritten. Remove it only if nothing in "
                            "it is needed any more");
  }
  const auto temporary = spec.path + ".new";
  std::error_code ignored;
  fs::remove_all(temporary, ignored);  // of a creation that crashed
  // Seen before the first byte is reserved: a device that is filled to the brim on the way to an
  // error, and on tmpfs the machine's memory, would hit everybody else.
  const auto free = free_bytes(parent_of(spec.path));
  if (free && *free < spec.files * spec.segment_size) no_room(spec, ENOSPC);
  try {
    if (::mkdir(temporary.c_str(), 0700) != 0) no_room(spec, errno);
    auto header = first_header(spec);
    for (std::uint32_t file = 0; file < spec.files; ++file) {
      header.file = file;
      header.segment = header.oldest = header.first = file == 0 ? 1 : 0;
      header.crc = wal_crc(header);
      write_file(spec, wal_file_path(temporary, file), header);
    }
    sync_directory(temporary, spec);
    if (::rename(temporary.c_str(), spec.path.c_str()) != 0) no_room(spec, errno);
    sync_directory(parent_of(spec.path), spec);
  } catch (...) {
    fs::remove_all(temporary, ignored);
    throw;
  }
}

}  // namespace mpaxos
