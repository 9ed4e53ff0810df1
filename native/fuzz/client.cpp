// The client port. Whatever a client sends, its connection is served or closed for a named reason;
// nothing else happens, and what comes of it does not depend on how TCP cuts the stream.
//
// Input: a flag byte (streams.hpp), then what the client sends.
#include "client_connection.hpp"

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
  fuzz::feed_twice(input, bytes, [](Hub& hub, PeerLinks&, asio::ip::tcp::socket socket) {
    std::make_shared<ClientConnection>(hub, std::move(socket))->start();
  });
  return 0;
}
