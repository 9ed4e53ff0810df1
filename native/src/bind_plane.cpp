#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include "bindings.hpp"
#include "engine.hpp"
#include "error.hpp"
#include "file_pool.hpp"
#include "plane.hpp"
#include "python_bytes.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mpaxos {
namespace {

using HostPort = std::pair<std::string, int>;

Address as_address(const HostPort& pair) {
  if (pair.second < 0 || pair.second > 65'535) {
    throw Error(ErrorKind::kConfig, pair.first + ":" + std::to_string(pair.second) +
                                        " is not an address: a port is 0 to 65535");
  }
  return {pair.first, static_cast<std::uint16_t>(pair.second)};
}

nb::object as_tuple(const Event& event) {
  const int kind = event.kind;
  switch (event.kind) {
    case kEventPeerMessage: {
      if (event.chunk) {
        return nb::make_tuple(kind, event.peer, as_bytes(event.bytes), event.chunk);
      }
      nb::list values;
      for (const auto& [time, batch] : event.values) values.append(nb::make_tuple(time, batch));
      return nb::make_tuple(kind, event.peer, as_bytes(event.bytes), values);
    }
    case kEventPeerUp:
    case kEventPeerDown:
      return nb::make_tuple(kind, event.peer);
    case kEventBatch:
    case kEventReads:
      return nb::make_tuple(kind, event.batch);
    case kEventAdmin:
      return nb::make_tuple(kind, event.token, as_bytes(event.bytes));
    case kEventNotice:
      return nb::make_tuple(kind, port_name(event.port), event.address, event.bytes);
    case kEventMet:
      return nb::make_tuple(kind, event.peer, event.birth.life, event.birth.birth);
    case kEventEstranged:
      return nb::make_tuple(kind, event.peer, event.bytes);
  }
  throw Error(ErrorKind::kInvariant, "an event of unknown kind");
}

nb::tuple poll(Plane& plane, std::int64_t until, std::int64_t room, bool quorum, bool votes,
               std::uint64_t useful_upto) {
  std::pair<std::int64_t, std::vector<Event>> turn;
  {
    nb::gil_scoped_release release;
    turn = plane.poll(until, room, {quorum, votes, useful_upto});
  }
  nb::list events;
  for (const auto& event : turn.second) events.append(as_tuple(event));
  return nb::make_tuple(turn.first, events);
}

void send(Plane& plane, std::uint16_t peer, const nb::bytes& control, const nb::list& values,
          bool vote) {
  TimedBatches batches;
  batches.reserve(values.size());
  for (nb::handle item : values) {
    const auto pair = nb::cast<nb::tuple>(item);
    if (pair.size() != 2) throw Error(ErrorKind::kWire, "a value is a pair of time and batch");
    batches.emplace_back(nb::cast<std::uint64_t>(pair[0]),
                         nb::cast<std::shared_ptr<Batch>>(pair[1]));
    if (!batches.back().second) throw Error(ErrorKind::kWire, "a value without a batch");
  }
  plane.send(peer, as_view(control), batches, vote);
}

void construct(Plane* self, std::uint16_t replica, const nb::bytes& cluster,
               std::uint64_t incarnation, std::uint64_t agreement, const nb::dict& peers,
               const HostPort& listen_peer, const HostPort& listen_client,
               const std::optional<HostPort>& listen_jpaxos, std::size_t max_request,
               std::size_t max_batch, std::size_t max_pending, std::size_t max_connections,
               double handshake_seconds, double frame_seconds) {
  PlaneOptions options;
  options.replica = replica;
  options.cluster = as_view(cluster);
  options.incarnation = incarnation;
  options.agreement = agreement;
  for (const auto& [peer, address] : peers) {
    options.peers.emplace(nb::cast<std::uint16_t>(peer), as_address(nb::cast<HostPort>(address)));
  }
  options.listen_peer = as_address(listen_peer);
  options.listen_client = as_address(listen_client);
  if (listen_jpaxos) options.listen_jpaxos = as_address(*listen_jpaxos);
  options.max_request = max_request;
  options.max_batch = max_batch;
  options.max_pending = max_pending;
  options.max_connections = max_connections;
  options.handshake_seconds = handshake_seconds;
  options.frame_seconds = frame_seconds;
  new (self) Plane(std::move(options));
}

void introduce(Plane& plane, std::uint64_t life, std::uint64_t birth, const nb::dict& met) {
  std::map<std::uint16_t, Birth> others;
  for (const auto& [peer, known] : met) {
    const auto pair = nb::cast<std::pair<std::uint64_t, std::uint64_t>>(known);
    others.emplace(nb::cast<std::uint16_t>(peer), Birth{pair.first, pair.second});
  }
  plane.introduce({life, birth}, std::move(others));
}

nb::dict counters(Plane& plane) {
  nb::dict all;
  for (const auto& [name, value] : plane.counters()) all[name.c_str()] = value;
  return all;
}

}  // namespace

void bind_plane(nb::module_& m) {
  m.attr("EVENT_PEER_MESSAGE") = static_cast<int>(kEventPeerMessage);
  m.attr("EVENT_PEER_UP") = static_cast<int>(kEventPeerUp);
  m.attr("EVENT_PEER_DOWN") = static_cast<int>(kEventPeerDown);
  m.attr("EVENT_BATCH") = static_cast<int>(kEventBatch);
  m.attr("EVENT_READS") = static_cast<int>(kEventReads);
  m.attr("EVENT_ADMIN") = static_cast<int>(kEventAdmin);
  m.attr("EVENT_NOTICE") = static_cast<int>(kEventNotice);
  m.attr("EVENT_MET") = static_cast<int>(kEventMet);
  m.attr("EVENT_ESTRANGED") = static_cast<int>(kEventEstranged);

  const PlaneOptions standard;
  nb::class_<Plane>(m, "Plane", nb::is_final())
      .def("__init__", &construct, nb::kw_only(), "replica"_a, "cluster"_a, "incarnation"_a,
           "agreement"_a, "peers"_a, "listen_peer"_a, "listen_client"_a,
           "listen_jpaxos"_a.none(), "max_request"_a = standard.max_request,
           "max_batch"_a = standard.max_batch, "max_pending"_a = standard.max_pending,
           "max_connections"_a = standard.max_connections,
           "handshake_seconds"_a = standard.handshake_seconds,
           "frame_seconds"_a = standard.frame_seconds)
      .def("ports", &Plane::ports)
      .def("poll", &poll, "until"_a, "room"_a, "quorum"_a, "votes"_a = true,
           "useful_upto"_a = 0)
      .def("send", &send, "peer"_a, "control"_a, "values"_a, "vote"_a = false)
      .def(
          "send_chunk",
          [](Plane& plane, std::uint16_t peer, const nb::bytes& control,
             const std::shared_ptr<ImageChunk>& chunk) {
            plane.send_chunk(peer, as_view(control), chunk);
          },
          "peer"_a, "control"_a, "chunk"_a)
      .def("deliver", &Plane::deliver, "replies"_a, nb::call_guard<nb::gil_scoped_release>())
      .def(
          "answer",
          [](Plane& plane, std::uint64_t token, const nb::bytes& data) {
            plane.answer(token, as_view(data));
          },
          "token"_a, "data"_a)
      .def("flush", &Plane::flush, nb::call_guard<nb::gil_scoped_release>())
      .def("wake", &Plane::wake)
      .def("counters", &counters)
      .def("set_identity", &Plane::set_identity, "cluster_name"_a, "machine"_a)
      .def("introduce", &introduce, "life"_a, "birth"_a, "met"_a)
      .def("serve", &Plane::serve, "hand_over"_a, nb::keep_alive<1, 2>())
      .def("attach", &Plane::attach, "steady"_a, "pool"_a, "engine"_a.none(),
           nb::keep_alive<1, 2>(), nb::keep_alive<1, 3>(), nb::keep_alive<1, 4>())
      .def("close", &Plane::close);
}

}  // namespace mpaxos
