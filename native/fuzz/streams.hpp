// Bytes of a connection, fed into the plane's own connection classes over a socket pair: what a
// replica reads from its ports, without the ports.
#pragma once

#include <asio/ip/tcp.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "peer_connection.hpp"
#include "plane_hub.hpp"

namespace mpaxos::fuzz {

// The first byte of an input says how the rest is fed: bit 0: checksums are put right first; bits 1
// to 3: size of the pieces; bit 4: without a quorum; bit 5: see the target.
struct Feed {
  explicit Feed(const std::uint8_t* data, std::size_t size);
  bool seal;
  std::size_t piece;
  bool quorum;
  bool other;
  std::string bytes;
};

// All that may be told of a connection's bytes, and must not depend on how they were cut.
struct Outcome {
  std::string commands;  // entries as they came out, one after the other
  std::string queries;
  std::string admin;
  std::string messages;  // of peers: control parts and batches
  std::uint64_t frames = 0;
  std::uint64_t refused = 0;
  std::map<std::string, std::uint64_t> closed;  // by reason
  bool operator==(const Outcome&) const = default;
};

// Makes the connection under test of one end of a socket pair, and starts it.
using Connect = std::function<void(Hub&, PeerLinks&, asio::ip::tcp::socket)>;

// Feeds `bytes` in pieces of `piece` bytes, ends the stream, answers all requests, closes. Aborts
// when anything but a verdict about this connection comes of it.
Outcome feed(const std::string& bytes, std::size_t piece, bool quorum, const Connect& connect);

// feed() as the input says, and once more in one piece: both must tell the same.
void feed_twice(const Feed& input, const std::string& bytes, const Connect& connect);

}  // namespace mpaxos::fuzz
