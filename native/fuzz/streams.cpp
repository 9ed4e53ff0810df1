#include "streams.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "check.hpp"
#include "client_connection.hpp"
#include "error.hpp"

namespace mpaxos::fuzz {

using asio::ip::tcp;

namespace {

constexpr std::size_t kMostPieces = 48;  // the rest comes in one: keeps long inputs fast
constexpr std::size_t kPending = 32 << 10;
constexpr std::size_t kMaxRequest = 2 << 10;

PlaneOptions options() {
  PlaneOptions options;
  options.replica = 0;  // never dials: the replica with the higher id does
  options.cluster = "0123456789abcdef";
  options.incarnation = 1;
  options.agreement = 7;
  options.peers = {{1, {"127.0.0.1", 1}}, {2, {"127.0.0.1", 2}}};
  options.max_request = kMaxRequest;
  options.max_batch = 4 << 10;
  options.max_pending = kPending;
  return options;
}

// A hub with one connection, and our end of it.
class World {
 public:
  World(bool quorum, const Connect& connect) : hub_(io_, options()), links_(hub_) {
    std::array<int, 2> ends{};
    require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()) == 0,
            "there is a socket pair");
    ours_ = ends[0];
    hub_.cluster_name = "fuzz";
    hub_.machine = "kv";
    hub_.begin_turn(quorum);
    connect(hub_, links_, tcp::socket(io_, tcp::v4(), ends[1]));
  }
  ~World() {
    hub_.close_all();
    turn();
    ::close(ours_);
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  void send(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto sent = ::send(ours_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent > 0) bytes.remove_prefix(static_cast<std::size_t>(sent));
      const bool closed = sent < 0 && errno != EAGAIN;
      turn();
      if (closed) return;
    }
  }
  void end() {
    ::shutdown(ours_, SHUT_WR);
    turn();
  }
  // Serves the sockets until nothing moves any more.
  void turn() {
    const auto seen = [&] {
      const auto& now = hub_.counters();
      return now.bytes_in + now.bytes_out + now.requests + now.queries + now.pauses;
    };
    std::uint64_t before = 0;
    do {
      before = seen();
      hub_.begin_pass();
      io_.restart();
      io_.poll();
      hub_.hand_out(1 << 20);
      for (auto& event : hub_.take_events()) take(event);
      hub_.flush();
      drain();
    } while (seen() != before);
  }
  // Every request gets a reply, every opening a session, every question an answer.
  void answer() {
    ReplySet replies;
    Entry entry;
    for (const auto& batch : batches_) {
      for (EntryCursor cursor(*batch); cursor.next(entry);) {
        const auto& header = entry.header;
        if (header.kind == kEntryOpen) {
          const std::uint64_t session = 99;
          replies.add(0, header.sequence, kStatusOpened, bytes_of(session));
        } else {
          const auto status = static_cast<std::uint8_t>(header.sequence % kStatusOpened);
          replies.add(header.session, header.sequence, status, entry.payload);
        }
      }
    }
    hub_.deliver(replies);
    for (const auto token : questions_) {
      const auto asker = std::dynamic_pointer_cast<ClientConnection>(hub_.find(token));
      if (asker) asker->answer("{}");
    }
    hub_.flush();
    turn();
  }
  Outcome outcome() {
    auto result = result_;
    const auto& counters = hub_.counters();
    result.frames = counters.frames_in;
    result.refused = counters.refused;
    for (std::size_t i = 0; i < counters.closed.size(); ++i) {
      if (counters.closed[i] > 0) {
        result.closed[reason_name(static_cast<Reason>(i))] = counters.closed[i];
      }
    }
    return result;
  }

 private:
  void take(const Event& event) {
    switch (event.kind) {
      case kEventBatch:
      case kEventReads:
        check_limit(*event.batch);
        append(*event.batch, event.kind == kEventBatch ? result_.commands : result_.queries);
        break;
      case kEventAdmin:
        result_.admin.append(event.bytes).push_back('\n');
        questions_.push_back(event.token);
        break;
      case kEventPeerMessage:
        result_.messages.append(event.bytes).push_back('\n');
        for (const auto& [time, batch] : event.values) {
          // Batch::parse is what a peer's bytes come through: it must have held.
          require(Batch::parse(std::string(batch->bytes()))->digest() == batch->digest(),
                  "a peer's batch is well-formed");
          result_.messages.append(bytes_of(time)).append(batch->bytes());
          append(*batch, result_.messages);  // walks its entries, as applying it would
        }
        break;
      default: break;
    }
    if (event.batch) batches_.push_back(event.batch);
  }
  static void check_limit(const Batch& batch) {
    Entry entry;
    for (EntryCursor cursor(batch); cursor.next(entry);) {
      require(entry.payload.size() <= kMaxRequest, "no request above the limit is taken");
    }
  }
  void append(const Batch& batch, std::string& to) {
    Entry entry;
    for (EntryCursor cursor(batch); cursor.next(entry);) {
      auto header = entry.header;
      if (header.kind == kEntryOpen) header.sequence = 0;  // a random token
      to.append(bytes_of(header)).append(entry.payload);
    }
  }
  void drain() {
    std::array<char, 65536> bytes;
    while (::recv(ours_, bytes.data(), bytes.size(), MSG_DONTWAIT) > 0) {
    }
  }

  asio::io_context io_{1};
  Hub hub_;
  PeerLinks links_;
  int ours_ = -1;
  Outcome result_;
  std::vector<BatchPtr> batches_;
  std::vector<std::uint64_t> questions_;
};

}  // namespace

Feed::Feed(const std::uint8_t* data, std::size_t size) {
  constexpr std::array<std::size_t, 8> kPieces = {1 << 30, 1, 2, 5, 16, 17, 64, 1000};
  const auto flags = size > 0 ? data[0] : std::uint8_t{0};
  seal = (flags & 1) != 0;
  piece = kPieces[(flags >> 1) & 7];
  quorum = (flags & 16) == 0;
  other = (flags & 32) != 0;
  if (size > 1) bytes.assign(reinterpret_cast<const char*>(data) + 1, size - 1);
}

Outcome feed(const std::string& bytes, std::size_t piece, bool quorum, const Connect& connect) {
  World world(quorum, connect);
  std::string_view rest(bytes);
  for (std::size_t i = 0; i < kMostPieces && rest.size() > piece; ++i) {
    world.send(rest.substr(0, piece));
    rest.remove_prefix(piece);
  }
  world.send(rest);
  world.answer();
  world.end();
  return world.outcome();
}

void feed_twice(const Feed& input, const std::string& bytes, const Connect& connect) {
  const auto outcome = feed(bytes, input.piece, input.quorum, connect);
  if (bytes.size() <= input.piece) return;
  require(feed(bytes, 1 << 30, input.quorum, connect) == outcome,
          "what comes of a stream does not depend on how it is cut");
}

}  // namespace mpaxos::fuzz
