#include "checksum.hpp"

#include <isa-l/crc.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#ifdef MPAXOS_XXH_DISPATCH
#include <xxh_x86dispatch.h>
#endif
#ifdef __x86_64__
#include <nmmintrin.h>
#endif

namespace mpaxos {
namespace {

#ifdef __x86_64__
// What ISA-L is slow to begin with: items, cells and headers have checksums over a few words each.
constexpr std::size_t kShort = 64;

const bool kInstruction = (__builtin_cpu_init(), __builtin_cpu_supports("sse4.2") != 0);

template <typename Word>
Word load(const char*& at) {
  Word word;
  std::memcpy(&word, at, sizeof word);
  at += sizeof word;
  return word;
}

__attribute__((target("sse4.2"))) std::uint32_t crc32c_short(std::string_view data,
                                                             std::uint32_t crc) {
  const char* at = data.data();
  std::uint64_t wide = crc;
  for (auto left = data.size() / 8; left > 0; --left) {
    wide = _mm_crc32_u64(wide, load<std::uint64_t>(at));
  }
  crc = static_cast<std::uint32_t>(wide);
  if (data.size() & 4) crc = _mm_crc32_u32(crc, load<std::uint32_t>(at));
  if (data.size() & 2) crc = _mm_crc32_u16(crc, load<std::uint16_t>(at));
  if (data.size() & 1) crc = _mm_crc32_u8(crc, load<std::uint8_t>(at));
  return crc;
}
#endif

}  // namespace

std::uint32_t crc32c(std::string_view data, std::uint32_t crc) {
  // ISA-L leaves the customary inversions to the caller and counts bytes in an int.
  crc = ~crc;
#ifdef __x86_64__
  if (data.size() <= kShort && kInstruction) return ~crc32c_short(data, crc);
#endif
  while (!data.empty()) {
    const auto part = data.substr(0, std::min<std::size_t>(data.size(), 1U << 30));
    auto* bytes = reinterpret_cast<unsigned char*>(const_cast<char*>(part.data()));
    crc = crc32_iscsi(bytes, static_cast<int>(part.size()), crc);
    data.remove_prefix(part.size());
  }
  return ~crc;
}

// With the header for it, xxHash takes the widest vectors that the processor has.
std::uint64_t digest64(std::string_view data, std::uint64_t seed) {
  return XXH3_64bits_withSeed(data.data(), data.size(), seed);
}

}  // namespace mpaxos
