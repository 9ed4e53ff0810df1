// CRC-32C (ISA-L) for frames and headers, XXH3-64 for contents.
#pragma once

#include <cstdint>
#include <string_view>

namespace mpaxos {

std::uint32_t crc32c(std::string_view data, std::uint32_t crc = 0);
std::uint64_t digest64(std::string_view data, std::uint64_t seed = 0);

}  // namespace mpaxos
