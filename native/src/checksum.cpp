#include "checksum.hpp"

#include <isa-l/crc.h>
#include <xxhash.h>

#include <algorithm>

namespace mpaxos {

std::uint32_t crc32c(std::string_view data, std::uint32_t crc) {
  // ISA-L leaves the customary inversions to the caller and counts bytes in an int.
  crc = ~crc;
  while (!data.empty()) {
    const auto part = data.substr(0, std::min<std::size_t>(data.size(), 1U << 30));
    auto* bytes = reinterpret_cast<unsigned char*>(const_cast<char*>(part.data()));
    crc = crc32_iscsi(bytes, static_cast<int>(part.size()), crc);
    data.remove_prefix(part.size());
  }
  return ~crc;
}

std::uint64_t digest64(std::string_view data) { return XXH3_64bits(data.data(), data.size()); }

}  // namespace mpaxos
