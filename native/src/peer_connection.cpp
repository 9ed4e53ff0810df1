#include "peer_connection.hpp"

#include <cstring>

#include "plane_hub.hpp"
#include "steady_messages.hpp"

namespace mpaxos {
namespace {

// Values of a message, as its table and the batches behind it say. Every length is compared with
// what has arrived before it is used.
TimedBatches parse_values(std::string_view payload, std::size_t covered) {
  const auto prefix = read_struct<PeerPrefix>(payload);
  auto rest = payload.substr(covered);
  TimedBatches values;
  values.reserve(prefix.batches);  // the table is inside the payload, so this is bounded by it
  for (std::uint32_t i = 0; i < prefix.batches; ++i) {
    const auto row =
        read_struct<BatchRow>(payload.substr(sizeof prefix + i * sizeof(BatchRow)));
    if (row.length > rest.size()) {
      throw Violation{Reason::kProtocol, "a batch is longer than what holds it"};
    }
    auto batch = Batch::parse(std::string(rest.substr(0, row.length)));
    if (batch->digest() != row.digest) {
      throw Violation{Reason::kDigest, "a batch does not have the digest its message names"};
    }
    rest.remove_prefix(row.length);
    values.emplace_back(row.time, std::move(batch));
  }
  if (!rest.empty()) {
    throw Violation{Reason::kProtocol, "bytes behind the last batch of a message"};
  }
  return values;
}

Violation other_version(const std::string& who, std::uint16_t protocol) {
  return {Reason::kVersion, who + " speaks protocol " + std::to_string(protocol) +
                                ", this replica " + std::to_string(kPeerProtocol)};
}

}  // namespace

PeerConnection::PeerConnection(Hub& hub, PeerLinks& links, asio::ip::tcp::socket socket,
                               std::shared_ptr<PeerLink> link)
    : FramedConnection(hub, std::move(socket), Port::kPeer),
      links_(links),
      link_(std::move(link)),
      dialled_(link_ != nullptr) {}

void PeerConnection::start() {
  Connection::start();
  // Who accepts learns from the caller's hello whom to greet.
  if (dialled_) send_hello(link_->peer());
}

void PeerConnection::send_hello(std::uint16_t receiver) {
  const auto& options = hub_.options();
  PeerHello hello{};
  hello.protocol = kPeerProtocol;
  hello.sender = options.replica;
  hello.receiver = receiver;
  std::memcpy(hello.cluster, options.cluster.data(), sizeof hello.cluster);
  hello.agreement = options.agreement;
  hello.life = hub_.birth.life;
  hello.birth = hub_.birth.birth;
  if (const auto met = hub_.met.find(receiver); met != hub_.met.end()) {
    hello.known_life = met->second.life;
    hello.known_birth = met->second.birth;
  }
  out_.begin_frame();
  out_.append(bytes_of(hello));
  out_.end_frame(kFramePeerHello);
  write();
}

bool PeerConnection::worth_a_notice(const std::string& text) {
  return !link_ || link_->worth_a_notice(text);
}

std::size_t PeerConnection::frame_limit(std::uint8_t kind) const {
  if (kind == kFramePeerHello && !greeted_) return sizeof(PeerHello);
  if ((kind == kFramePeer || kind == kFramePeerVote) && greeted_) return kMaxPeerFrame;
  if (kind == kFramePeerChunk && greeted_) return kMaxChunkFrame;
  throw Violation{Reason::kProtocol, "a frame of kind " + std::to_string(kind) +
                                         (greeted_ ? " between replicas" : " before the hello")};
}

void PeerConnection::on_frame(std::uint8_t kind, std::string_view payload, std::size_t covered) {
  if (greeted_) return on_message(kind, payload, covered);
  if (payload.size() != sizeof(PeerHello)) {
    // The first field is the same in every version.
    const auto protocol = payload.size() < 2 ? kPeerProtocol : read_struct<std::uint16_t>(payload);
    if (protocol != kPeerProtocol) throw other_version("a peer", protocol);
    throw Violation{Reason::kProtocol, "a hello of the wrong size"};
  }
  on_hello(read_struct<PeerHello>(payload));
}

void PeerConnection::on_hello(const PeerHello& hello) {
  if (!dialled_) {
    // Answered even if we do not fit together, so that both sides can say why.
    link_ = links_.find(hello.sender);
    send_hello(hello.sender);
    if (closed()) return;
  }
  check_hello(hello);
  check_births(hello);
  greeted_ = true;
  link_->up(std::static_pointer_cast<PeerConnection>(shared_from_this()));
}

void PeerConnection::check_hello(const PeerHello& hello) const {
  const auto& options = hub_.options();
  const auto sender = "replica " + std::to_string(hello.sender);
  if (hello.protocol != kPeerProtocol) {
    throw other_version(sender, hello.protocol);
  }
  if (std::memcmp(hello.cluster, options.cluster.data(), sizeof hello.cluster) != 0) {
    throw Violation{Reason::kMismatch,
                    sender + " belongs to another cluster; check the peer addresses"};
  }
  if (!link_) {
    throw Violation{Reason::kMismatch, sender + " is not one of the peers of the cluster file"};
  }
  if (hello.receiver != options.replica) {
    throw Violation{Reason::kMismatch, sender + " looks for replica " +
                                           std::to_string(hello.receiver) + ", this is replica " +
                                           std::to_string(options.replica) +
                                           "; check the peer addresses"};
  }
  if (hello.sender != link_->peer()) {
    throw Violation{Reason::kMismatch, "replica " + std::to_string(link_->peer()) +
                                           " was dialled and " + sender +
                                           " answered; check the peer addresses"};
  }
  if (!dialled_ && hello.sender < options.replica) {
    throw Violation{Reason::kMismatch,
                    sender + " dialled us, but the replica with the higher id dials"};
  }
  if (hello.agreement != options.agreement) {
    throw Violation{Reason::kMismatch, sender +
                                           ": its settings differ from ours; the cluster file "
                                           "must be the same on all replicas"};
  }
}

// A replica whose data is lost must not come back as if it had never voted. It looks like a new
// one, but for those who have met it.
void PeerConnection::check_births(const PeerHello& hello) {
  const auto sender = "replica " + std::to_string(hello.sender);
  const auto& own = hub_.birth;
  if (hello.known_birth != 0 && hello.known_birth != own.birth && hello.known_life >= own.life) {
    const auto old = hello.known_life > own.life;
    const auto text =
        sender + " has met this replica before, and it had other data" +
        (old ? ", in a later life. What is here was replaced and must not run any more, or it was"
             : ". What is here was") +
        " made by `mpaxos init` after those were lost, and would vote as if it had never voted."
        " To have this replica back, remove it and run `mpaxos init --replace`: then it first"
        " receives what it must know";
    hub_.push({.kind = kEventEstranged, .peer = hello.sender, .bytes = text});
    throw Violation{Reason::kMismatch, text};
  }
  auto& met = hub_.met[hello.sender];
  if (hello.birth == met.birth) return;
  if (met.birth != 0 && hello.life <= met.life) {
    throw Violation{Reason::kMismatch,
                    sender + " comes with other data than it had before: it was made anew, or was"
                             " replaced and is the old one. Its votes do not count; it needs"
                             " `mpaxos init --replace`"};
  }
  met = {hello.life, hello.birth};
  hub_.push({.kind = kEventMet, .peer = hello.sender, .birth = met});
}

void PeerConnection::on_message(std::uint8_t kind, std::string_view payload,
                                std::size_t covered) {
  const auto prefix = read_struct<PeerPrefix>(payload);
  const auto control = payload.substr(covered - prefix.control_length, prefix.control_length);
  if (kind == kFramePeer && hub_.may_spare() && is_spared(control, prefix.batches)) return;
  Event event{
      .kind = kEventPeerMessage, .peer = link_->peer(), .bytes = std::string(control)};
  if (kind == kFramePeerChunk) {
    if (prefix.batches != 0) throw Violation{Reason::kProtocol, "batches beside a chunk"};
    event.chunk = ImageChunk::parse(retain(payload.substr(covered)));
  } else {
    event.values = parse_values(payload, covered);
  }
  hub_.push_of_peer(std::move(event), kind == kFramePeerVote);
}

bool PeerConnection::is_spared(std::string_view control, std::size_t batches) {
  Incoming in;
  return decode_letter(control, batches, in) && in.letter.kind == LetterKind::kAccept &&
         hub_.spares_accept(in.letter.slot);
}

void PeerConnection::send(std::string_view control, const TimedBatches& values, bool vote) {
  std::size_t batches = 0;
  for (const auto& [time, batch] : values) batches += batch->bytes().size();
  const auto table = sizeof(PeerPrefix) + values.size() * sizeof(BatchRow);
  const auto size = table + control.size() + batches;
  if (!has_room(size)) return;
  out_.begin_frame();
  out_.append(bytes_of(PeerPrefix{static_cast<std::uint32_t>(control.size()),
                                  static_cast<std::uint32_t>(values.size())}));
  for (const auto& [time, batch] : values) {
    const auto length = static_cast<std::uint32_t>(batch->bytes().size());
    out_.append(bytes_of(BatchRow{time, batch->digest(), length, 0}));
  }
  out_.append(control);
  out_.end_frame(vote ? kFramePeerVote : kFramePeer, batches);
  for (const auto& [time, batch] : values) out_.append_shared({batch, batch->bytes()});
  mark_dirty();
}

void PeerConnection::send_chunk(std::string_view control, const ChunkPtr& chunk) {
  const auto bytes = chunk->bytes();
  if (!has_room(sizeof(PeerPrefix) + control.size() + bytes.size())) return;
  out_.begin_frame();
  out_.append(bytes_of(PeerPrefix{static_cast<std::uint32_t>(control.size()), 0}));
  out_.append(control);
  out_.end_frame(kFramePeerChunk, bytes.size());
  out_.append_shared({chunk, bytes});
  mark_dirty();
}

// Whether a message of `size` bytes can be queued; it is counted in either case.
bool PeerConnection::has_room(std::size_t size) {
  const bool overfull = !out_.empty() && out_.size() + size > kMaxPeerQueue;
  const bool room = !closed() && size <= kMaxPeerFrame && !overfull;
  ++(room ? hub_.counters().peer_sent : hub_.counters().peer_dropped);
  return room;
}

void PeerConnection::gone() {
  if (link_) link_->lost(this, dialled_);
}

}  // namespace mpaxos
