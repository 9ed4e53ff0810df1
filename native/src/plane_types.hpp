// What the parts of the plane share: options, events, counters.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "batch.hpp"
#include "image_chunk.hpp"
#include "wire.hpp"

namespace mpaxos {

enum class Port : std::uint8_t { kPeer, kClient, kJpaxos };
const char* port_name(Port port);

struct Address {
  std::string host;
  std::uint16_t port = 0;
  std::string text() const;
};

// Which data a replica comes with. `birth` is drawn when its directory is made; a directory that
// takes the place of another begins a higher life.
struct Birth {
  std::uint64_t life = 0;
  std::uint64_t birth = 0;  // 0: not known
};

struct PlaneOptions {
  std::uint16_t replica = 0;
  std::string cluster;  // 16 bytes
  std::uint64_t incarnation = 0;
  std::uint64_t agreement = 0;
  std::map<std::uint16_t, Address> peers;
  Address listen_peer;
  Address listen_client;
  std::optional<Address> listen_jpaxos;
  std::size_t max_request = 1 << 20;
  std::size_t max_batch = 1 << 18;
  std::size_t max_pending = 1 << 23;
  std::size_t max_connections = 10'000;
  double handshake_seconds = 5.0;
  double frame_seconds = 20.0;
};

enum EventKind : int {
  kEventPeerMessage = 1,
  kEventPeerUp = 2,
  kEventPeerDown = 3,
  kEventBatch = 4,
  kEventReads = 5,
  kEventAdmin = 6,
  kEventNotice = 7,
  kEventMet = 8,
  kEventEstranged = 9,
};

using TimedBatches = std::vector<std::pair<std::uint64_t, BatchPtr>>;

// Which fields are meaningful depends on `kind`; see _native.pyi.
struct Event {
  EventKind kind;
  std::uint16_t peer = 0;
  std::uint64_t token = 0;
  Port port = Port::kPeer;
  BatchPtr batch = nullptr;
  TimedBatches values = {};
  ChunkPtr chunk = nullptr;  // of a message: what it carries instead
  std::string bytes = {};    // control part, admin request, reason of a notice
  std::string address = {};  // of a notice
  Birth birth = {};          // of a replica that was met
};

// What the protocol wants of a turn: see mpaxos.core.output.Output.
struct Wanted {
  bool quorum = true;             // false: requests are refused
  bool votes = true;              // false: a vote waits for another event to come with
  std::uint64_t useful_upto = 0;  // above 0: nothing is urgent, accepts of later slots are useless
};

struct Counters {
  std::uint64_t accepted = 0;      // connections, over all time
  std::uint64_t bytes_in = 0;
  std::uint64_t bytes_out = 0;
  std::uint64_t frames_in = 0;
  std::uint64_t writes = 0;        // system calls that wrote
  std::uint64_t requests = 0;      // commands taken in
  std::uint64_t queries = 0;
  std::uint64_t refused = 0;       // requests answered REFUSED for want of a quorum
  std::uint64_t replies = 0;       // delivered to a connected client
  std::uint64_t pauses = 0;        // times that reading of clients was stopped
  std::uint64_t peer_sent = 0;
  std::uint64_t peer_dropped = 0;  // messages: not connected, queue full or too large
  std::uint64_t notices_dropped = 0;
  std::uint64_t ordinary_turns = 0;  // taken under a mandate
  std::uint64_t spared = 0;          // accepts that were of no use
  std::array<std::uint64_t, static_cast<std::size_t>(Reason::kCount)> closed{};
};

inline constexpr std::size_t kMaxClientQueue = 16U << 20;  // then it is a slow reader
inline constexpr std::size_t kMaxPeerQueue = 64U << 20;    // then messages are dropped
inline constexpr std::size_t kMaxPeerFrame = 128U << 20;
inline constexpr std::size_t kMaxChunkFrame = kMaxChunkLength + (64U << 10);
inline constexpr std::size_t kMaxAdmin = 64U << 10;
inline constexpr std::size_t kMaxReplyFrame = 1U << 20;  // then a new frame is begun
inline constexpr std::size_t kMinRequestFrame = 4U << 20;  // many small requests at once
inline constexpr int kMaxAdminInFlight = 16;               // per connection
inline constexpr std::size_t kMaxNotices = 100;            // per turn; the rest is counted

// Nanoseconds of CLOCK_MONOTONIC, the same as Python's time.monotonic_ns().
std::int64_t monotonic_now();

}  // namespace mpaxos
