#include "client_connection.hpp"

#include <cstring>

#include "plane.hpp"

namespace mpaxos {
namespace {

constexpr std::uint32_t kAdminLimit = 64 << 10;
constexpr std::size_t kQueueLimit = 16 << 20;

}  // namespace

ClientConnection::ClientConnection(Plane& plane, Socket socket)
    : Connection(plane, std::move(socket), "client") {}

std::size_t ClientConnection::queue_limit() const {
  return kQueueLimit + plane_.options().max_request;
}

std::size_t ClientConnection::consume(std::string_view data) {
  if (data.size() < sizeof(FrameHeader)) {
    // Bytes that cannot become a frame are refused at once, not when sixteen have come.
    if (std::string_view("mPx1").substr(0, data.size()) != data.substr(0, 4)) {
      throw BadInput("garbage", "this is not the mpaxos protocol");
    }
    return 0;
  }
  const auto limit = session_ != 0 ? plane_.client_frame_limit() : kAdminLimit;
  const auto header = parse_header(data, limit);
  const auto total = sizeof header + header.length;
  if (data.size() < total) {
    want(total);
    return 0;
  }
  const auto payload = data.substr(sizeof header, header.length);
  check_frame(header, payload);
  if (header.kind == kRequests && session_ != 0) {
    requests(payload);
  } else if (header.kind == kHello && token_ == 0 && session_ == 0) {
    hello(payload);
  } else if (header.kind == kAdmin && header.length <= kAdminLimit) {
    if (admin_token_ == 0) admin_token_ = plane_.register_admin(shared_from_this());
    became_ready();
    plane_.admin(admin_token_, payload);
  } else {
    throw BadInput("protocol", "a frame of kind " + std::to_string(header.kind) +
                                   " does not belong here");
  }
  return total;
}

void ClientConnection::hello(std::string_view payload) {
  if (payload.size() != sizeof(HelloFrame)) throw BadInput("protocol", "a hello of wrong size");
  const auto frame = load<HelloFrame>(payload);
  became_ready();
  if (frame.protocol != kProtocol) {
    welcome();  // tells the version spoken here
    close_after_flush();
    return;
  }
  if (frame.session != 0) {
    session_ = frame.session;
    plane_.attach(session_, shared_from_this());
    welcome();
    return;
  }
  welcome();
  if (plane_.refusing()) {
    bye("no majority of the replicas can be reached");
    return;
  }
  token_ = plane_.open_session(shared_from_this(), frame.window);
}

void ClientConnection::welcome() {
  const auto& options = plane_.options();
  std::string payload;
  payload.append(raw(kProtocol));
  payload.append(raw(options.replica));
  payload.append(raw(options.max_request));
  payload.append(raw(session_));
  payload.append(reinterpret_cast<const char*>(options.cluster.data()), options.cluster.size());
  for (const auto& text : {plane_.cluster_name(), plane_.machine_name()}) {
    const auto part = std::string_view(text).substr(0, 255);
    payload.push_back(static_cast<char>(part.size()));
    payload.append(part);
  }
  queue(make_frame(kWelcome, payload));
}

void ClientConnection::opened(std::uint64_t session) {
  token_ = 0;
  session_ = session;
  plane_.attach(session_, shared_from_this());
  queue(make_frame(kOpened, raw(session)));
}

void ClientConnection::requests(std::string_view payload) {
  const auto limit = plane_.options().max_request;
  validate_entries(payload);
  std::size_t at = 0;
  // Runs of entries for the same batch are appended with one copy.
  std::size_t run = 0;
  std::uint32_t count = 0;
  bool queries = false;
  const auto flush_run = [&](std::size_t end) {
    if (count > 0) plane_.take(payload.substr(run, end - run), count, queries);
    run = end;
    count = 0;
  };
  while (at < payload.size()) {
    const auto entry = load<EntryHeader>(payload.substr(at));
    if (entry.session != session_) {
      throw BadInput("protocol", "a request of another session than the connection's");
    }
    if (entry.kind == kEntryOpen) throw BadInput("protocol", "an open among requests");
    if (entry.length > limit) {
      throw BadInput("oversize", "a request of " + std::to_string(entry.length) +
                                     " bytes is above the limit of " + std::to_string(limit));
    }
    const bool query = entry.kind == kEntryQuery;
    if (query != queries) flush_run(at);
    queries = query;
    const auto next = at + sizeof entry + entry.length;
    if (plane_.refusing()) {
      reply({session_, entry.sequence, kStatusRefused, {}});
      run = next;
    } else {
      ++count;
    }
    at = next;
  }
  flush_run(at);
}

void ClientConnection::reply(const Reply& reply) {
  if (closed()) return;
  if (replies_.empty()) {
    replies_.resize(sizeof(FrameHeader));
    dirty();
  }
  const ReplyHeader header{
      reply.sequence, static_cast<std::uint32_t>(reply.payload.size()), reply.status, {0, 0, 0}};
  replies_.append(raw(header));
  replies_.append(reply.payload);
}

void ClientConnection::before_flush() {
  if (replies_.empty()) return;
  const auto payload = std::string_view(replies_).substr(sizeof(FrameHeader));
  const auto header = make_header(kReplies, payload.size(), payload);
  std::memcpy(replies_.data(), &header, sizeof header);
  std::string frame;
  frame.swap(replies_);
  queue(std::move(frame));
}

void ClientConnection::bye(std::string_view reason) {
  if (closed()) return;
  queue(make_frame(kBye, reason));
  close_after_flush();
}

void ClientConnection::admin_reply(std::string_view json) {
  queue(make_frame(kAdminReply, json));
}

void ClientConnection::on_closed() {
  if (token_ != 0) plane_.drop_token(token_);
  if (admin_token_ != 0) plane_.drop_admin(admin_token_);
  if (session_ != 0) plane_.detach(session_, this);
}

}  // namespace mpaxos
