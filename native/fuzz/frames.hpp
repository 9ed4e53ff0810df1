// Streams of frames, as a mutator sees them: what is in the frames changes, the frames themselves
// mostly stay frames. Nobody finds a CRC-32C by chance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mpaxos::fuzz {

// Puts the checksums (and the digests in PEER frames) right in all whole frames at the front.
std::string sealed(std::string stream);

// A custom mutator of libFuzzer for inputs of a flag byte and a stream of frames.
std::size_t mutate_frames(std::uint8_t* data, std::size_t size, std::size_t max_size,
                          unsigned seed);

}  // namespace mpaxos::fuzz
