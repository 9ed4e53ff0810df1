// The port for clients of the originals. The property is that of client.cpp.
//
// Input: a flag byte (streams.hpp), then what the client sends.
#include "jpaxos_connection.hpp"

#include "check.hpp"
#include "streams.hpp"

using namespace mpaxos;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fuzz::Feed input(data, size);
  // Replies are MessagePack of the state machine, which may be any user's.
  fuzz::require(!failure_text(input.bytes).empty(), "a failure has a text");
  fuzz::feed_twice(input, input.bytes, [](Hub& hub, PeerLinks&, asio::ip::tcp::socket socket) {
    std::make_shared<JpaxosConnection>(hub, std::move(socket))->start();
  });
  return 0;
}
