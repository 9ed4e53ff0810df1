#include "plane_hub.hpp"

#include <algorithm>
#include <ctime>
#include <random>
#include <utility>

#include "error.hpp"

namespace mpaxos {
namespace {

constexpr std::size_t kPassBytes = 2U << 20;
// ns, with what is not waited for
constexpr std::int64_t kVotePatience = 2'000'000;
constexpr std::int64_t kTransferPatience = 5'000'000;
// ns, for more requests to a batch while the sockets have any
constexpr std::int64_t kGatherTime = 250'000;

std::int64_t nanoseconds(double seconds) { return static_cast<std::int64_t>(seconds * 1e9); }

// Nobody should be able to guess the token of another one's opening.
std::uint64_t random_token() {
  static std::random_device device;
  return (std::uint64_t{device()} << 32) | device();
}

}  // namespace

std::int64_t monotonic_now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

const char* port_name(Port port) {
  switch (port) {
    case Port::kPeer: return "peer";
    case Port::kClient: return "client";
    case Port::kJpaxos: return "jpaxos";
  }
  return "unknown";
}

std::string Address::text() const {
  const bool bracket = host.find(':') != std::string::npos;
  return (bracket ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

RequestQueue::RequestQueue(std::uint16_t origin, std::uint64_t incarnation, std::size_t max_batch)
    : origin_(origin), incarnation_(incarnation), max_batch_(max_batch) {}

void RequestQueue::seal() {
  sealed_.push_back(open_.seal(origin_, incarnation_, ++number_));
  sealed_bytes_ += sealed_.back()->bytes().size();
}

void RequestQueue::make_room(std::size_t size) {
  if (open_.count() > 0 && open_.size() + size > max_batch_) seal();
}

void RequestQueue::append(std::string_view entry) {
  make_room(entry.size());
  open_.append_raw(entry, 1);
}

void RequestQueue::append(const EntryHeader& header, std::string_view payload) {
  make_room(sizeof header + payload.size());
  open_.append(header, payload);
}

BatchPtr RequestQueue::next() {
  if (sealed_.empty()) {
    if (open_.count() == 0) return nullptr;
    seal();
  }
  auto batch = std::move(sealed_.front());
  sealed_.pop_front();
  sealed_bytes_ -= batch->bytes().size();
  return batch;
}

bool RequestQueue::gathers(bool more) {
  if (!more || open_.count() == 0 || !sealed_.empty()) {
    gather_until_ = 0;
    return false;
  }
  const auto now = monotonic_now();
  if (gather_until_ == 0) gather_until_ = now + kGatherTime;
  if (now < gather_until_) return true;
  gather_until_ = 0;
  return false;
}

std::size_t RequestQueue::bytes() const {
  return sealed_bytes_ + open_.size() - sizeof(BatchHeader);
}

Hub::Hub(asio::io_context& io, PlaneOptions options)
    : io_(io),
      readiness_(io),
      options_(std::move(options)),
      limits_{nanoseconds(options_.handshake_seconds), nanoseconds(options_.frame_seconds)},
      commands_(options_.replica, options_.incarnation, options_.max_batch),
      queries_(options_.replica, options_.incarnation, options_.max_batch) {}

std::size_t Hub::max_request_frame() const {
  return std::max(kMinRequestFrame, options_.max_request + sizeof(EntryHeader));
}

std::int64_t Hub::hand_out(std::int64_t room) {
  const bool commands = room > 0 && !commands_.gathers(pass_served_);
  const bool queries = !queries_.gathers(pass_served_);
  gathers_ = (room > 0 && !commands) || !queries;
  while (commands && room > 0) {
    auto batch = commands_.next();
    if (!batch) break;
    --room;
    push({.kind = kEventBatch, .batch = std::move(batch)});
  }
  while (queries) {
    auto batch = queries_.next();
    if (!batch) break;
    push({.kind = kEventReads, .batch = std::move(batch)});
  }
  if (!parked_.empty() && (!wanted_.quorum || commands_.bytes() <= options_.max_pending / 2)) {
    for (const auto& connection : std::exchange(parked_, {})) connection->resume();
  }
  return room;
}

std::vector<Event> Hub::take_events() {
  notices_ = 0;
  held_ = 0;
  return std::exchange(events_, {});
}

void Hub::push_of_peer(Event event, bool vote) {
  if (may_spare() || (vote && !wanted_.votes)) {
    const auto patience = may_spare() ? kTransferPatience : kVotePatience;
    if (held_++ == 0) held_until_ = monotonic_now() + patience;
  }
  push(std::move(event));
}

bool Hub::spares_accept(std::uint64_t slot) {
  if (slot <= wanted_.useful_upto || !std::exchange(useless_seen_, true)) return false;
  ++counters_.spared;
  return true;
}

void Hub::notice(Port port, const std::string& address, const std::string& reason) {
  if (++notices_ > kMaxNotices) {
    ++counters_.notices_dropped;
    return;
  }
  push({.kind = kEventNotice, .port = port, .bytes = reason, .address = address});
}

void Hub::flush() {
  // Writing can close a connection and mark others; those are written in the next round.
  while (!dirty_.empty()) {
    for (const auto& connection : std::exchange(dirty_, {})) connection->write();
  }
}

void Hub::add(const std::shared_ptr<Connection>& connection) {
  connections_.emplace(connection->id(), connection);
  ++open_by_port_[static_cast<std::size_t>(connection->port())];
  ++counters_.accepted;
}

void Hub::remove(const Connection& connection) {
  if (connections_.erase(connection.id()) > 0) {
    --open_by_port_[static_cast<std::size_t>(connection.port())];
  }
}

void Hub::count_closed(Connection& connection, Reason reason, const std::string& text) {
  ++counters_.closed[static_cast<std::size_t>(reason)];
  if (!text.empty() && connection.worth_a_notice(text)) {
    notice(connection.port(), connection.address(), text);
  }
}

std::size_t Hub::open_connections(Port port) const {
  return open_by_port_[static_cast<std::size_t>(port)];
}

void Hub::park(std::shared_ptr<Connection> connection) {
  if (parked_.empty()) ++counters_.pauses;
  parked_.push_back(std::move(connection));
}

// A replica that was busy elsewhere for long finds bytes waiting that are not late at all.
void Hub::sweep(std::int64_t period) {
  std::vector<std::shared_ptr<Connection>> all;
  all.reserve(connections_.size());
  for (const auto& [id, connection] : connections_) all.push_back(connection);
  const auto now = monotonic_now();
  const auto excused = std::max<std::int64_t>(now - last_sweep_ - 2 * period, 0);
  last_sweep_ = now;
  for (const auto& connection : all) connection->sweep(now, excused);
}

void Hub::close_all() {
  while (!connections_.empty()) {
    const auto connection = connections_.begin()->second;
    connection->close(Reason::kShutdown);
    connections_.erase(connection->id());
  }
  dirty_.clear();
  parked_.clear();
}

std::shared_ptr<Connection> Hub::find(std::uint64_t id) const {
  const auto found = connections_.find(id);
  return found == connections_.end() ? nullptr : found->second;
}

void Hub::count_read(std::size_t size) {
  counters_.bytes_in += size;
  pass_bytes_ += size;
}

bool Hub::serve_ready(std::int64_t patience) {
  pass_served_ = false;
  return readiness_.poll(patience, [this](std::uint64_t id, std::uint32_t events) {
    pass_served_ = true;
    // By number: an event of this very round can have closed others.
    if (const auto connection = find(id)) connection->on_ready(events);
    return pass_bytes_ <= kPassBytes;
  });
}

void Hub::count_write(std::size_t size) {
  counters_.bytes_out += size;
  ++counters_.writes;
}

void Hub::attach(std::uint64_t session, SessionPtr connection) {
  auto& place = sessions_[session];
  const auto older = std::exchange(place, std::move(connection));
  if (older) older->replaced();
}

void Hub::detach(std::uint64_t session, const SessionConnection* connection) {
  const auto found = sessions_.find(session);
  if (found != sessions_.end() && found->second.get() == connection) sessions_.erase(found);
}

std::uint64_t Hub::open_session(SessionPtr connection, std::uint32_t window) {
  std::uint64_t token = 0;
  while (token == 0 || openings_.contains(token)) token = random_token();
  openings_.emplace(token, std::move(connection));
  EntryHeader header{};
  header.sequence = token;
  header.length = sizeof window;
  header.kind = kEntryOpen;
  command(header, bytes_of(window));
  return token;
}

void Hub::command(std::string_view entry) {
  ++counters_.requests;
  commands_.append(entry);
}

void Hub::command(const EntryHeader& header, std::string_view payload) {
  ++counters_.requests;
  commands_.append(header, payload);
}

void Hub::query(std::string_view entry) {
  ++counters_.queries;
  queries_.append(entry);
}

void Hub::deliver(const ReplySet& replies) {
  for (std::size_t i = 0; i < replies.size(); ++i) {
    const auto reply = replies.at(i);
    if (reply.session != 0) {
      const auto found = sessions_.find(reply.session);
      if (found == sessions_.end()) continue;
      ++counters_.replies;
      // Held here: a reply can close its connection and so take it out of the map.
      const auto connection = found->second;
      connection->deliver(reply);
      continue;
    }
    const auto found = openings_.find(reply.sequence);
    if (found == openings_.end()) continue;
    const auto connection = found->second;
    openings_.erase(found);
    std::uint64_t session = 0;
    if (reply.status == kStatusOpened && reply.payload.size() == sizeof session) {
      session = read_struct<std::uint64_t>(reply.payload);
    }
    connection->opened(session);
  }
}

}  // namespace mpaxos
