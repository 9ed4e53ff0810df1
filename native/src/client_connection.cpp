#include "client_connection.hpp"

#include "plane_hub.hpp"

namespace mpaxos {

ClientConnection::ClientConnection(Hub& hub, asio::ip::tcp::socket socket)
    : FramedConnection(hub, std::move(socket), Port::kClient) {}

std::shared_ptr<ClientConnection> ClientConnection::self() {
  return std::static_pointer_cast<ClientConnection>(shared_from_this());
}

std::size_t ClientConnection::frame_limit(std::uint8_t kind) const {
  switch (kind) {
    case kFrameHello:
      if (session_ != 0 || token_ != 0) throw Violation{Reason::kProtocol, "a second hello"};
      return sizeof(ClientHello);
    case kFrameAdmin:
      return kMaxAdmin;
    case kFrameRequests:
      if (session_ == 0) throw Violation{Reason::kProtocol, "requests before the session is open"};
      return hub_.max_request_frame();
    default:
      throw Violation{Reason::kProtocol,
                      "a frame of kind " + std::to_string(kind) + " is not one of a client"};
  }
}

void ClientConnection::on_frame(std::uint8_t kind, std::string_view payload, std::size_t) {
  greeted_ = true;
  if (kind == kFrameRequests) return on_requests(payload);
  if (kind == kFrameAdmin) return on_admin(payload);
  if (payload.size() != sizeof(ClientHello)) {
    throw Violation{Reason::kProtocol, "a hello of the wrong size"};
  }
  on_hello(read_struct<ClientHello>(payload));
}

void ClientConnection::on_hello(const ClientHello& hello) {
  if (hello.protocol != kProtocol) {
    throw Violation{Reason::kVersion, "the client speaks protocol " +
                                          std::to_string(hello.protocol) + ", this replica " +
                                          std::to_string(kProtocol)};
  }
  if (hello.session == 0) {
    if (!hub_.quorum()) return part(Reason::kNoQuorum, "no quorum: try another replica", false);
    token_ = hub_.open_session(self(), hello.window);
  } else {
    session_ = hello.session;
    hub_.attach(session_, self());
  }
  send_welcome(session_);
}

void ClientConnection::on_requests(std::string_view payload) {
  if (validate_entries(payload) == 0) {
    throw Violation{Reason::kProtocol, "a frame of requests without any"};
  }
  // All or nothing: a frame with one bad entry is not half executed.
  std::size_t at = 0;
  EntryHeader header;
  for (; at < payload.size(); at += sizeof header + header.length) {
    header = read_struct<EntryHeader>(payload.substr(at));
    if (header.session != session_) {
      throw Violation{Reason::kProtocol, "a request of another session"};
    }
    if (header.kind == kEntryOpen) {
      throw Violation{Reason::kProtocol, "an opening inside a session"};
    }
    if (header.kind == kEntryCommand && header.sequence == 0) {
      throw Violation{Reason::kProtocol, "a command of sequence 0: sequences start at 1"};
    }
    if (header.length > hub_.options().max_request) {
      throw Violation{Reason::kOversize, "a request of " + std::to_string(header.length) +
                                             " bytes, the limit is " +
                                             std::to_string(hub_.options().max_request)};
    }
  }
  for (at = 0; at < payload.size(); at += sizeof header + header.length) {
    header = read_struct<EntryHeader>(payload.substr(at));
    const auto entry = payload.substr(at, sizeof header + header.length);
    if (!hub_.quorum()) {
      ++hub_.counters().refused;
      deliver({session_, header.sequence, kStatusRefused, {}});
      if (closed()) return;
    } else if (header.kind == kEntryQuery) {
      hub_.query(entry);
    } else {
      hub_.command(entry);
    }
  }
}

void ClientConnection::on_admin(std::string_view payload) {
  if (admins_ >= kMaxAdminInFlight) {
    throw Violation{Reason::kProtocol, "too many admin requests at once"};
  }
  ++admins_;
  hub_.push({.kind = kEventAdmin, .token = id(), .bytes = std::string(payload)});
}

void ClientConnection::answer(std::string_view data) {
  if (admins_ == 0) return;
  --admins_;
  send_frame(kFrameAdminReply, data);
}

void ClientConnection::send_frame(FrameKind kind, std::string_view payload) {
  if (closed() || parting_) return;
  finish_queue();
  out_.begin_frame();
  out_.append(payload);
  out_.end_frame(kind);
  mark_dirty();
}

void ClientConnection::send_welcome(std::uint64_t session) {
  const auto& options = hub_.options();
  const auto max_request = static_cast<std::uint32_t>(options.max_request);
  std::string text;
  text.append(bytes_of(kProtocol)).append(bytes_of(options.replica));
  text.append(bytes_of(max_request)).append(bytes_of(session)).append(options.cluster);
  for (const auto& name : {hub_.cluster_name, hub_.machine}) {
    text.push_back(static_cast<char>(name.size()));
    text.append(name);
  }
  send_frame(kFrameWelcome, text);
}

void ClientConnection::deliver(const Reply& reply) {
  if (closed() || parting_) return;
  if (out_.frame_size() > kMaxReplyFrame) finish_queue();
  if (!out_.frame_open()) out_.begin_frame();
  const ReplyHeader header{
      reply.sequence, static_cast<std::uint32_t>(reply.payload.size()), reply.status, {}};
  out_.append(bytes_of(header));
  out_.append(reply.payload);
  mark_dirty();
  if (out_.size() <= kMaxClientQueue) return;
  write();  // perhaps it is only this turn that brings so much
  if (out_.size() > kMaxClientQueue) {
    close(Reason::kSlowReader, "the client does not read its replies");
  }
}

void ClientConnection::opened(std::uint64_t session) {
  token_ = 0;
  if (closed() || parting_) return;
  if (session == 0) return part(Reason::kProtocol, "the session could not be opened", true);
  session_ = session;
  hub_.attach(session, self());
  send_frame(kFrameOpened, bytes_of(session));
}

void ClientConnection::replaced() {
  part(Reason::kReplaced, "another connection of this session took over", false);
}

void ClientConnection::finish_queue() {
  if (out_.frame_open()) out_.end_frame(kFrameReplies);
}

bool ClientConnection::last_word(const std::string& text) {
  // Whoever has not sent one good frame does not understand ours either.
  if (!greeted_) return false;
  send_frame(kFrameBye, text);
  return true;
}

void ClientConnection::gone() {
  if (token_ != 0) hub_.forget_token(token_);
  if (session_ != 0) hub_.detach(session_, this);
}

}  // namespace mpaxos
