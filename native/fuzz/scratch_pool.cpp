#include "scratch_pool.hpp"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>

#include "check.hpp"

// libpmemobj's own memory need not go through ASan, which would cost most of the time.
extern "C" void* __libc_malloc(std::size_t size);
extern "C" void* __libc_realloc(void* old, std::size_t size);
extern "C" void __libc_free(void* memory);

namespace mpaxos::fuzz {
namespace {

char* copy_of(const char* text) {
  const auto size = std::strlen(text) + 1;
  auto* copy = static_cast<char*>(__libc_malloc(size));
  if (copy != nullptr) std::memcpy(copy, text, size);
  return copy;
}

const bool plain_memory = [] {
  pmemobj_set_funcs(&__libc_malloc, &__libc_free, &__libc_realloc, &copy_of);
  return true;
}();

constexpr std::array<std::uint8_t, 16> kCluster = {'f', 'u', 'z', 'z'};
constexpr std::uint32_t kReplica = 1;

std::string length_of(std::size_t size) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(size >> shift));
  return bytes;
}

std::string with_key(char op, std::string_view key) {
  return std::string(1, op).append(length_of(key.size())).append(key);
}

}  // namespace

ScratchPool::ScratchPool() {
  // libpmem reads it when it is loaded, before main(); the scripts set it. Without it everything is
  // the same, but slow.
  const char* given = std::getenv("MPAXOS_FUZZ_DIR");
  std::string name = std::string(given != nullptr ? given : "/dev/shm") + "/mpaxos-fuzz-XXXXXX";
  require(::mkdtemp(name.data()) != nullptr, "there is room in /dev/shm or MPAXOS_FUZZ_DIR");
  directory_ = name;
  path_ = name + "/pool";
  FilePool::create({path_, kPoolSize, kLogSize, kCluster, kReplica, 3, "fuzz", kPoolLimits});
}

ScratchPool::~ScratchPool() {
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

std::unique_ptr<FilePool> ScratchPool::open() const {
  return std::make_unique<FilePool>(path_, kCluster, kReplica, kPoolSize);
}

BatchPtr batch_of(const std::vector<Request>& requests, std::uint64_t number) {
  BatchBuilder builder;
  for (const auto& request : requests) {
    EntryHeader header{};
    header.session = request.session;
    header.sequence = request.sequence;
    header.lowest = request.lowest;
    header.length = static_cast<std::uint32_t>(request.payload.size());
    header.kind = request.kind;
    builder.append(header, request.payload);
  }
  return builder.seal(1, 1, number);
}

std::string put(std::string_view key, std::string_view value) {
  return with_key('p', key).append(value);
}
std::string get(std::string_view key) { return with_key('g', key); }
std::string erase(std::string_view key) { return with_key('d', key); }
std::string scan(std::uint32_t limit) {
  return std::string("s").append(length_of(limit)).append(1, '\0');
}

}  // namespace mpaxos::fuzz
