#include "wal_recovery.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "checksum.hpp"
#include "error.hpp"

namespace mpaxos {
namespace {

const char kRestore[] =
    ". The replica does not start from it; restore its directory from a good copy, or replace the "
    "replica. Do not remove parts of the log: the replica would forget what it voted for";

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::kStorageCorrupt, path + " is damaged: " + what + kRestore);
}

void check_header(const SegmentHeader& header, const std::string& path,
                  const WalIdentity& identity) {
  if (std::memcmp(header.magic, kWalMagic, sizeof header.magic) != 0) {
    throw Error(ErrorKind::kStorageForeign, path + " is not part of a log of mpaxos");
  }
  if (header.format != kWalFormat) {
    throw Error(ErrorKind::kStorageVersion,
                path + " has format " + std::to_string(header.format) + "; this version reads " +
                    std::to_string(kWalFormat) + ": use the version that wrote it");
  }
  if (header.crc != wal_crc(header)) damaged(path, "its header does not match its checksum");
  if (std::memcmp(header.cluster, identity.cluster.data(), identity.cluster.size()) != 0) {
    throw Error(ErrorKind::kStorageForeign,
                path + " belongs to another cluster: check the cluster file and the directory");
  }
  if (header.replica != identity.replica) {
    throw Error(ErrorKind::kStorageForeign, path + " belongs to replica " +
                                                std::to_string(header.replica) + ", not to " +
                                                std::to_string(identity.replica));
  }
  if (header.files < kWalFewest || header.files > kWalMost || header.size < kWalSmallest ||
      header.size % kWalBlock != 0) {
    damaged(path, "its header is inconsistent");
  }
}

SegmentHeader read_header(WalDevice& device, const std::string& directory, std::uint32_t file,
                          const WalIdentity& identity) {
  const auto path = wal_file_path(directory, file);
  SegmentHeader header;
  const auto size = device.size(file);
  if (size < sizeof header) damaged(path, "it has " + std::to_string(size) + " bytes only");
  device.forget(file, 0, kWalBlock);
  device.read(file, 0, reinterpret_cast<char*>(&header), sizeof header);
  check_header(header, path, identity);
  if (header.size != size) {
    damaged(path, "it has " + std::to_string(size) + " bytes instead of " +
                      std::to_string(header.size) + ", so it was truncated or replaced");
  }
  return header;
}

}  // namespace

std::uint32_t wal_salt(const SegmentHeader& header) {
  return crc32c({reinterpret_cast<const char*>(&header.log), sizeof header.log});
}

std::uint32_t wal_crc(const SegmentHeader& header) {
  return crc32c({reinterpret_cast<const char*>(&header), offsetof(SegmentHeader, crc)});
}

std::uint32_t wal_crc(const WalHeader& header, std::uint32_t salt) {
  return crc32c({reinterpret_cast<const char*>(&header), offsetof(WalHeader, crc)}, salt);
}

SegmentHeader peek_wal(const std::string& directory, const WalIdentity& identity) {
  struct stat info {};
  if (::stat(directory.c_str(), &info) != 0) {
    throw Error(ErrorKind::kStorageMissing,
                directory + " is missing. An empty log is not put in its place: a replica that "
                            "forgot what it promised could make the cluster lose decided "
                            "commands. Restore it");
  }
  if (!S_ISDIR(info.st_mode)) {
    throw Error(ErrorKind::kStorageForeign, directory + " is not a directory of segments");
  }
  const auto device = open_wal_files(directory, 1);
  return read_header(*device, directory, 0, identity);
}

void WalRecovery::run(WalIndex& index) {
  // What a killed process left in the page cache becomes durable before anybody acts on it (W4).
  for (std::uint32_t file = 0; file < first_.files; ++file) device_.sync(file);
  read_headers();
  check_numbers();
  const auto oldest = headers_[file_of(segment_)].oldest;
  const auto& start = headers_[file_of(oldest)];
  index.start(oldest, {start.round, start.leader}, start.truncated);
  sequence_ = start.first;
  generation_ = start.generation;
  // All but the newest were synced before the next began; only there can the cache deceive.
  device_.forget(file_of(segment_), 0, first_.size);
  for (auto segment = oldest; segment <= segment_; ++segment) {
    enter(segment, index);
    read_segment(segment, index);
  }
  check_end();
}

void WalRecovery::read_headers() {
  for (std::uint32_t file = 0; file < first_.files; ++file) {
    headers_.push_back(read_header(device_, directory_, file, identity_));
    const auto& header = headers_.back();
    if (header.log != first_.log || header.file != file || header.files != first_.files ||
        header.size != first_.size) {
      throw Error(ErrorKind::kStorageForeign, wal_file_path(directory_, file) +
                                                  " belongs to another log than " +
                                                  wal_file_path(directory_, 0));
    }
    segment_ = std::max(segment_, header.segment);
  }
}

// Each file must hold the newest segment that belongs there.
void WalRecovery::check_numbers() {
  if (segment_ == 0) damaged(directory_, "none of its files was ever used");
  for (std::uint32_t file = 0; file < first_.files; ++file) {
    const auto& header = headers_[file];
    const auto back = (segment_ - 1 + first_.files - file) % first_.files;
    const auto expected = segment_ > back ? segment_ - back : 0;
    if (header.segment != expected || header.oldest > header.segment ||
        (header.segment != 0 && header.oldest == 0)) {
      damaged(wal_file_path(directory_, file),
              "it holds segment " + std::to_string(header.segment) + " instead of " +
                  std::to_string(expected));
    }
  }
  const auto& newest = headers_[file_of(segment_)];
  if (segment_ - newest.oldest >= first_.files) {
    damaged(wal_file_path(directory_, file_of(segment_)), "its oldest segment is gone");
  }
}

// R1, and the state in the header against what was read so far.
void WalRecovery::enter(std::uint64_t segment, WalIndex& index) {
  const auto& header = headers_[file_of(segment)];
  if (header.first != sequence_) {
    corrupt(segment - 1, position_,
            "record " + std::to_string(sequence_) + " is expected there, and the next segment "
            "begins with record " + std::to_string(header.first));
  }
  if (WalBallot(header.round, header.leader) != index.promised() ||
      header.truncated < index.truncated() || header.generation < generation_) {
    corrupt(segment, 0, "its header does not fit the segment before");
  }
  index.truncate(header.truncated);
  generation_ = header.generation;
  reading_ = segment;
  window_ = 0;
  bytes_.clear();
}

// `size` bytes of the present segment, which must be inside of it. Reads ahead.
const char* WalRecovery::bytes_at(std::uint64_t at, std::uint64_t size) {
  constexpr std::uint64_t kAhead = 1 << 20;
  if (at < window_ || at + size > window_ + bytes_.size()) {
    bytes_.resize(std::min(std::max(size, kAhead), first_.size - at));
    device_.read(file_of(reading_), at, bytes_.data(), bytes_.size());
    window_ = at;
  }
  return bytes_.data() + (at - window_);
}

void WalRecovery::read_segment(std::uint64_t segment, WalIndex& index) {
  position_ = kWalBlock;
  while (true) {
    if (read_record(segment, position_, false, index)) continue;
    // After a torn tail the log goes on at the next block.
    const auto block = wal_round_up(position_, kWalBlock);
    if (block == position_ || !read_record(segment, block, true, index)) return;
  }
}

bool WalRecovery::read_record(std::uint64_t segment, std::uint64_t at, bool only_opened,
                              WalIndex& index) {
  const auto header = header_at(at);
  if (!header || header->sequence != sequence_) return false;
  const bool opened = header->kind == kWalOpened && header->generation > generation_;
  if (!opened && (only_opened || header->generation != generation_)) return false;
  const auto size = wal_record_size(header->length);
  if (size > first_.size - at) return false;
  if (header->kind == kWalRecord &&
      digest64({bytes_at(at + kWalUnit, header->length), header->length}) != header->digest) {
    return false;
  }
  try {
    index.apply(*header, segment, at, nullptr);
  } catch (const Error& error) {
    corrupt(segment, at, error.what());
  }
  generation_ = header->generation;
  ++sequence_;
  position_ = at + size;
  if (header->flags & kWalLast) position_ = wal_round_up(position_, kWalBlock);
  return true;
}

std::optional<WalHeader> WalRecovery::header_at(std::uint64_t at) {
  if (at + kWalUnit > first_.size) return std::nullopt;
  const char* bytes = bytes_at(at, kWalUnit);
  std::uint16_t magic;
  std::memcpy(&magic, bytes, sizeof magic);
  if (magic != kWalRecordMagic) return std::nullopt;
  WalHeader header;
  std::memcpy(&header, bytes, sizeof header);
  if (header.crc != wal_crc(header, salt_)) return std::nullopt;
  return header;
}

// R2 and R3, when the newest segment has been read.
void WalRecovery::check_end() {
  for (auto at = position_; at + kWalUnit <= first_.size; at += kWalUnit) {
    const auto header = header_at(at);
    // Records of an earlier lap and of an earlier torn tail may lie here.
    if (!header || header->sequence < sequence_ || header->generation < generation_) continue;
    if (header->sequence - header->unsynced >= sequence_) {
      corrupt(segment_, position_,
              "record " + std::to_string(sequence_) + " cannot be read, and record " +
                  std::to_string(header->sequence) + " at byte " + std::to_string(at) +
                  " says that it was durable");
    }
    torn_ = at + wal_record_size(header->length) - position_;
  }
}

void WalRecovery::corrupt(std::uint64_t segment, std::uint64_t at, const std::string& what) const {
  damaged(wal_file_path(directory_, file_of(segment)) + " at byte " + std::to_string(at), what);
}

}  // namespace mpaxos
