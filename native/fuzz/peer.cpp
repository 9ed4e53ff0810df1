// The peer port, whoever dialled. The property is that of client.cpp; and what is handed on as a
// message has batches that are well-formed and have the digests that the message names.
//
// Input: a flag byte (streams.hpp; bit 5: this replica dialled), then what the peer sends.
#include "peer_connection.hpp"

#include "frames.hpp"
#include "streams.hpp"

using namespace mpaxos;

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
  return fuzz::mutate_frames(data, size, max_size, seed);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::Feed input(data, size);
  const auto bytes = input.seal ? fuzz::sealed(input.bytes) : input.bytes;
  fuzz::feed_twice(input, bytes, [&](Hub& hub, PeerLinks& links, asio::ip::tcp::socket socket) {
    const auto link = input.other ? links.find(1) : nullptr;
    std::make_shared<PeerConnection>(hub, links, std::move(socket), link)->start();
  });
  return 0;
}
