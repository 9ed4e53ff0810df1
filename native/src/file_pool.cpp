#include "file_pool.hpp"

#include <fcntl.h>
#include <libpmem.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "checksum.hpp"
#include "descriptor.hpp"
#include "error.hpp"

namespace mpaxos {
namespace {

constexpr std::size_t kBlock = 128 << 10;  // of units of one class; libpmemobj rounds up to 256 KiB

std::string mib(std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

std::uint32_t crc_upto(const void* data, std::size_t size) {
  return crc32c({static_cast<const char*>(data), size});
}

void sync_path(const std::string& path, int flags) {
  const Descriptor file(path, flags);
  if (file.get() < 0 || ::fsync(file.get()) != 0) {
    throw Error(ErrorKind::kStorageFull, "cannot sync " + path + ": " + std::strerror(errno));
  }
}

[[noreturn]] void no_room(const PoolSpec& spec, const std::string& directory) {
  struct statvfs info {};
  std::string free = "unknown";
  if (::statvfs(directory.c_str(), &info) == 0) free = mib(info.f_bavail * info.f_frsize);
  throw Error(ErrorKind::kStorageFull, "no room for a pool of " + mib(spec.size) + " in " +
                                           directory + " (" + free +
                                           " free): make room, or choose a smaller pool size");
}

void reserve_file(const PoolSpec& spec, const std::string& temporary,
                  const std::string& directory) {
  const Descriptor file(temporary, O_CREAT | O_EXCL | O_RDWR, 0600);
  if (file.get() < 0) {
    throw Error(ErrorKind::kStorageFull,
                "cannot create " + temporary + ": " + std::strerror(errno));
  }
  const int error = reserve(file.get(), spec.size, spec.pages);
  if (error == ENOSPC || error == EFBIG) no_room(spec, directory);
  if (error != 0) {
    throw Error(ErrorKind::kStorageFull,
                "cannot reserve " + mib(spec.size) + " in " + directory + ": " +
                    std::strerror(error));
  }
}

std::uint64_t allocated(PMEMobjpool* pool, std::uint64_t size, std::uint64_t flags,
                        const PoolSpec& spec) {
  PMEMoid oid;
  if (pmemobj_xalloc(pool, &oid, size, 0, flags, nullptr, nullptr) != 0) {
    throw Error(ErrorKind::kStorageFull,
                "a pool of " + mib(spec.size) + " has no room for a log of " +
                    mib(spec.log_size) + " and its session table: make it larger");
  }
  return oid.off;
}

std::uint64_t zeroed(PMEMobjpool* pool, std::uint64_t size, const PoolSpec& spec) {
  return allocated(pool, size, POBJ_XALLOC_ZERO, spec);
}

void initialise(PMEMobjpool* pool, const PoolSpec& spec) {
  const PMEMoid oid = pmemobj_root(pool, sizeof(PoolRoot));
  if (OID_IS_NULL(oid)) {
    throw Error(ErrorKind::kStorageFull, "a pool of " + mib(spec.size) + " is too small");
  }
  auto* root = static_cast<PoolRoot*>(pmemobj_direct(oid));
  std::memset(static_cast<void*>(root), 0, sizeof *root);
  auto& header = root->header;
  std::memcpy(header.magic, kPoolMagic, sizeof header.magic);
  header.format = kPoolFormat;
  header.replica = spec.replica;
  std::memcpy(header.cluster, spec.cluster.data(), sizeof header.cluster);
  header.size = spec.size;
  header.log_size = spec.log_size;
  // One allocation for both: libpmemobj rounds one of some kilobytes up to megabytes.
  header.journal_size = journal_size(spec.size);
  // All zero, as nothing was ever written to this part of the file: to write zeros over it would
  // take longer than all the rest, and hold up whoever waits for this pool.
  header.log_offset = allocated(pool, spec.log_size + header.journal_size, 0, spec);
  header.limits = spec.limits;
  header.replicas = spec.replicas;
  std::strncpy(header.machine, spec.machine.c_str(), sizeof header.machine - 1);
  header.crc = crc_upto(&header, offsetof(PoolHeader, crc));
  root->promises[0].crc = crc_upto(&root->promises[0], offsetof(PromiseCell, crc));
  root->promise_word = root->tail = root->head = root->truncated = make_word(0);
  if (spec.limits.max_sessions > 0) {  // otherwise it is for a log only
    root->engine.session_table = zeroed(pool, spec.limits.max_sessions * 8, spec);
  }
  if (spec.installation > 0) {
    root->engine.installing = make_word(zeroed(pool, spec.installation, spec));
  }
  auto& applied = root->engine.applied;
  applied.crc = crc_upto(&applied, offsetof(AppliedRoot, crc));
  pmemobj_persist(pool, root, sizeof *root);
}

// libpmemobj's own header fills the first 4 KiB. It checks the first half and its checksum at the
// end, before which lies the state of the last shutdown; what is between is unused and zero.
void check_unused_header(const std::string& path) {
  constexpr std::size_t kFrom = 2048;
  constexpr std::size_t kTo = 4024;
  const Descriptor file(path, O_RDONLY);
  std::string bytes(kTo - kFrom, '\0');
  const auto got = ::pread(file.get(), bytes.data(), bytes.size(), kFrom);
  if (got != static_cast<ssize_t>(bytes.size()) ||
      bytes.find_first_not_of('\0') != std::string::npos) {
    throw Error(ErrorKind::kStorageCorrupt,
                path + " is damaged in the header of the pool. The replica does not start from "
                       "it; restore it from a good copy");
  }
}

// libpmemobj knows classes of allocations only as long as a pool is open. What was allocated in one
// that is not defined stays what it is, and can be freed.
void define_classes(PMEMobjpool* pool) {
  for (unsigned number = 0; number < kClasses; ++number) {
    const auto size = unit_size(number);
    pobj_alloc_class_desc units{};
    units.unit_size = size;
    units.alignment = std::min<std::size_t>(size & -size, 64);  // whole lines where it can be
    units.units_per_block = static_cast<unsigned>(kBlock / size);
    units.header_type = POBJ_HEADER_NONE;
    const auto name = "heap.alloc_class." + std::to_string(kFirstClass + number) + ".desc";
    if (pmemobj_ctl_set(pool, name.c_str(), &units) == 0) continue;
    throw Error(ErrorKind::kStorageFull,
                std::string("libpmemobj defines no class of allocations: ") + pmemobj_errormsg());
  }
}

[[noreturn]] void cannot_open(const std::string& path) {
  const int error = errno;
  const std::string text = pmemobj_errormsg();
  if (error == EWOULDBLOCK || error == EAGAIN) {
    throw Error(ErrorKind::kStorageLocked, path + " is in use by another process");
  }
  throw Error(ErrorKind::kStorageCorrupt,
              path + " cannot be opened as a pool (" + text +
                  "): it is damaged, or not a pool at all. Restore this replica; an empty pool "
                  "must not take its place");
}

}  // namespace

void FilePool::create(const PoolSpec& spec) {
  namespace fs = std::filesystem;
  const auto directory = fs::path(spec.path).parent_path().string();
  if (fs::exists(spec.path)) {
    throw Error(ErrorKind::kStorageForeign,
                spec.path + " exists already: it is not overwritten. Remove it only if nothing in "
                            "it is needed any more");
  }
  if (spec.machine.size() >= sizeof(PoolHeader::machine)) {
    throw Error(ErrorKind::kConfig, "the machine's name is longer than 255 bytes");
  }
  const auto temporary = spec.path + ".new";
  ::unlink(temporary.c_str());  // of a creation that crashed
  try {
    reserve_file(spec, temporary, directory);
    PMEMobjpool* pool = pmemobj_create(temporary.c_str(), kPoolLayout, 0, 0600);
    if (pool == nullptr) {
      throw Error(ErrorKind::kStorageFull,
                  "cannot create a pool in " + directory + ": " + pmemobj_errormsg());
    }
    try {
      initialise(pool, spec);
    } catch (...) {
      pmemobj_close(pool);
      throw;
    }
    pmemobj_close(pool);
    sync_path(temporary, O_RDWR);
    if (::rename(temporary.c_str(), spec.path.c_str()) != 0) {
      throw Error(ErrorKind::kStorageFull,
                  "cannot rename " + temporary + ": " + std::strerror(errno));
    }
    sync_path(directory, O_RDONLY | O_DIRECTORY);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
}

FilePool::FilePool(const std::string& path, const std::array<std::uint8_t, 16>& cluster,
                   std::uint32_t replica, std::uint64_t size, bool installing)
    : path_(path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    throw Error(ErrorKind::kStorageMissing, path + " is missing: " + std::strerror(errno));
  }
  if (!S_ISREG(info.st_mode)) throw Error(ErrorKind::kStorageForeign, path + " is not a file");
  if (static_cast<std::uint64_t>(info.st_size) != size) {
    throw Error(ErrorKind::kStorageCorrupt,
                path + " has " + std::to_string(info.st_size) + " bytes instead of " +
                    std::to_string(size) + ": it was truncated or replaced. Restore this replica");
  }
  check_unused_header(path);
  pool_ = pmemobj_open(path.c_str(), kPoolLayout);
  if (pool_ == nullptr) cannot_open(path);
  try {
    define_classes(pool_);
    verify_header(cluster, replica, size);
    if (this->installing()) read_word(root_->engine.installing, "installation");  // checked
    if (this->installing() && !installing) {
      throw Error(ErrorKind::kStorageIncomplete,
                  path + " holds an image of the state that has not arrived completely: it is "
                         "not a replica. Go on with the transfer, or remove the file and begin "
                         "it anew");
    }
    is_pmem_ = pmem_is_pmem(pool_, size) != 0;
    auto& applied = root_->engine.applied;
    const auto& header = root_->header;
    journal_.emplace(pool_,
                     reinterpret_cast<char*>(pool_) + header.log_offset + header.log_size,
                     header.journal_size);
    journal_->recover(applied);
    reload();
    if (applied.crc != crc_upto(&applied, offsetof(AppliedRoot, crc))) {
      throw Error(ErrorKind::kStorageCorrupt, "the applied position does not match its checksum");
    }
    if (log_->truncated_upto() > applied.slot && !log_only()) {
      throw Error(ErrorKind::kStorageCorrupt, "the log is truncated beyond the applied position");
    }
  } catch (const Error& error) {
    close();
    if (error.kind() != ErrorKind::kStorageCorrupt) throw;
    throw Error(ErrorKind::kStorageCorrupt,
                path + " is damaged: " + error.what() +
                    ". The replica does not start from it; restore it from a good copy");
  }
}

FilePool::~FilePool() { close(); }

void FilePool::close() {
  log_.reset();
  journal_.reset();
  if (pool_ != nullptr) pmemobj_close(pool_);
  pool_ = nullptr;
  root_ = nullptr;
}

PMEMobjpool* FilePool::handle() {
  invariant(pool_ != nullptr, "the pool is closed");
  return pool_;
}

void FilePool::verify_header(const std::array<std::uint8_t, 16>& cluster, std::uint32_t replica,
                             std::uint64_t size) {
  // pmemobj_root would create or grow a root: ask for its size first.
  if (pmemobj_root_size(pool_) < sizeof(PoolRoot)) {
    throw Error(ErrorKind::kStorageForeign, path_ + " is a pool, but not one of mpaxos");
  }
  root_ = static_cast<PoolRoot*>(pmemobj_direct(pmemobj_root(pool_, sizeof(PoolRoot))));
  const auto& header = root_->header;
  if (std::memcmp(header.magic, kPoolMagic, sizeof header.magic) != 0) {
    throw Error(ErrorKind::kStorageForeign, path_ + " is a pool, but not one of mpaxos");
  }
  if (header.format != kPoolFormat) {
    throw Error(ErrorKind::kStorageVersion,
                path_ + " has format " + std::to_string(header.format) + "; this version reads " +
                    std::to_string(kPoolFormat) + ": use the version that wrote it");
  }
  if (header.crc != crc_upto(&header, offsetof(PoolHeader, crc))) {
    throw Error(ErrorKind::kStorageCorrupt, "its header does not match its checksum");
  }
  if (std::memcmp(header.cluster, cluster.data(), cluster.size()) != 0) {
    throw Error(ErrorKind::kStorageForeign,
                path_ + " belongs to another cluster: check the cluster file and the directory");
  }
  if (header.replica != replica) {
    throw Error(ErrorKind::kStorageForeign, path_ + " belongs to replica " +
                                                std::to_string(header.replica) + ", not to " +
                                                std::to_string(replica));
  }
  // Whoever writes a wrong header with a right checksum gets an error, too, and nothing worse.
  const auto fits = header.size == size && header.log_size % kUnit == 0 && header.log_size > 0 &&
                    header.log_offset < size && header.log_size < size - header.log_offset &&
                    header.journal_size >= kUnit &&
                    header.journal_size < size - header.log_offset - header.log_size &&
                    header.limits.max_sessions < size / sizeof(std::uint64_t) &&
                    header.machine[sizeof header.machine - 1] == '\0';
  if (!fits) throw Error(ErrorKind::kStorageCorrupt, "its header is inconsistent");
}

// The log's own: so large an allocation has whole blocks, behind a header.
std::uint64_t FilePool::block_begin() const {
  constexpr std::uint64_t kHeader = 16;
  return root_->header.log_offset - kHeader;
}

void FilePool::load_promise() {
  promise_counter_ = read_word(root_->promise_word, "promise selector");
  const auto& cell = root_->promises[promise_counter_ % 2];
  if (cell.crc != crc_upto(&cell, offsetof(PromiseCell, crc)) ||
      cell.counter != promise_counter_) {
    throw Error(ErrorKind::kStorageCorrupt, "the promise does not match its checksum");
  }
  promised_ = {cell.round, cell.leader};
}

void FilePool::reload() {
  load_promise();
  log_.emplace(pool_, *root_);
}

PromiseCell FilePool::next_promise(const Promise& promise) const {
  PromiseCell fresh{};
  fresh.counter = promise_counter_ + 1;
  fresh.round = promise.round;
  fresh.leader = promise.leader;
  fresh.crc = crc_upto(&fresh, offsetof(PromiseCell, crc));
  return fresh;
}

void FilePool::write_promise(const Promise& promise) {
  auto& cell = root_->promises[(promise_counter_ + 1) % 2];
  const auto fresh = next_promise(promise);
  pmemobj_memcpy_persist(pool_, &cell, &fresh, sizeof fresh);
  __atomic_store_n(&root_->promise_word.bits, make_word(fresh.counter).bits, __ATOMIC_RELEASE);
  pmemobj_persist(pool_, &root_->promise_word, sizeof(Word));
  promise_counter_ = fresh.counter;
  promised_ = promise;
}

void FilePool::write(const std::optional<Promise>& promise, const std::vector<RecordIn>& records,
                     std::uint64_t truncate_upto) {
  invariant(pool_ != nullptr, "the pool is closed");
  invariant(!installing(), "a write to a pool that an image is being installed in");
  const auto order = [](const Promise& p) { return std::pair(p.round, p.leader); };
  const auto promised = promise ? *promise : promised_;
  invariant(order(promised) >= order(promised_), "a promise below the present one");
  for (const auto& record : records) {
    invariant(std::pair(record.round, record.leader) >= order(promised),
              "a record of a ballot below the promise");
  }
  log_->check_room(records);
  if (promise) write_promise(*promise);
  log_->append(records);
  if (truncate_upto > 0) {
    const auto applied = load_shared(root_->engine.applied.slot);
    invariant(log_only() || truncate_upto <= applied, "truncation beyond the applied slot");
    log_->truncate(truncate_upto);
  }
}

std::uint64_t FilePool::decided_upto() const {
  const auto& word = root_->engine.decided;
  return word.bits == 0 ? 0 : read_word(word, "decided position");
}

void FilePool::write_decided(std::uint64_t upto) {
  invariant(pool_ != nullptr && log_only(), "the state's position says what is decided");
  auto& word = root_->engine.decided;
  __atomic_store_n(&word.bits, make_word(upto).bits, __ATOMIC_RELEASE);
  pmemobj_persist(pool_, &word, sizeof word);
}

void FilePool::end_installing(Transaction& tx, std::uint64_t slot,
                              const std::optional<Promise>& promise) {
  tx.add(&root_->truncated, sizeof root_->truncated);
  root_->truncated = make_word(slot);
  tx.add(&root_->engine.installing, sizeof(Word));
  root_->engine.installing = Word{};
  if (!promise) return;
  auto& cell = root_->promises[(promise_counter_ + 1) % 2];
  tx.add(&cell, sizeof cell);
  cell = next_promise(*promise);
  tx.add(&root_->promise_word, sizeof(Word));
  root_->promise_word = make_word(cell.counter);
}

}  // namespace mpaxos
