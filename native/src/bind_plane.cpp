#include <nanobind/stl/array.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <cstring>

#include "bindings.hpp"
#include "error.hpp"
#include "plane.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mpaxos {
namespace {

nb::bytes as_bytes(std::string_view data) { return nb::bytes(data.data(), data.size()); }

std::string_view as_view(const nb::bytes& data) { return {data.c_str(), data.size()}; }

void make_plane(Plane* self, std::uint16_t replica, const nb::bytes& cluster,
                std::uint64_t incarnation, std::uint64_t agreement,
                const std::map<std::uint16_t, HostPort>& peers, const HostPort& listen_peer,
                const HostPort& listen_client, const std::optional<HostPort>& listen_jpaxos,
                std::uint32_t max_request, std::size_t max_batch, std::size_t max_pending,
                std::size_t max_connections, double handshake_seconds, double frame_seconds) {
  if (cluster.size() != 16) throw Error(ErrorKind::kConfig, "a cluster id has 16 bytes");
  PlaneOptions options{replica,     {},           incarnation,     agreement,
                       peers,       listen_peer,  listen_client,   listen_jpaxos,
                       max_request, max_batch,    max_pending,     max_connections,
                       handshake_seconds, frame_seconds};
  std::memcpy(options.cluster.data(), cluster.c_str(), options.cluster.size());
  nb::gil_scoped_release release;
  new (self) Plane(std::move(options));
}

nb::object batch_object(const BatchPtr& batch) {
  return nb::cast(std::const_pointer_cast<Batch>(batch));
}

nb::tuple event_tuple(const PlaneEvent& event) {
  const int kind = static_cast<int>(event.kind);
  switch (event.kind) {
    case EventKind::kPeerMessage: {
      nb::list values;
      for (const auto& [time, batch] : event.values) {
        values.append(nb::make_tuple(time, batch_object(batch)));
      }
      return nb::make_tuple(kind, event.number, as_bytes(event.text), values);
    }
    case EventKind::kPeerUp:
    case EventKind::kPeerDown: return nb::make_tuple(kind, event.number);
    case EventKind::kBatch:
    case EventKind::kReads: return nb::make_tuple(kind, batch_object(event.batch));
    case EventKind::kAdmin: return nb::make_tuple(kind, event.number, as_bytes(event.text));
    case EventKind::kNotice:
      return nb::make_tuple(kind, event.text, event.address, event.reason);
  }
  throw Error(ErrorKind::kInvariant, "an event of unknown kind");
}

nb::tuple poll(Plane& plane, std::int64_t until, std::size_t room, bool quorum) {
  std::vector<PlaneEvent> events;
  std::int64_t now = 0;
  {
    nb::gil_scoped_release release;
    now = plane.poll(until, room, quorum, events);
  }
  nb::list list;
  for (const auto& event : events) list.append(event_tuple(event));
  return nb::make_tuple(now, list);
}

void send(Plane& plane, std::uint16_t peer, const nb::bytes& control, const nb::list& values) {
  Values attached;
  for (nb::handle item : values) {
    const auto pair = nb::cast<nb::tuple>(item);
    invariant(pair.size() == 2, "a value has two fields");
    attached.emplace_back(nb::cast<std::uint64_t>(pair[0]),
                          nb::cast<std::shared_ptr<Batch>>(pair[1]));
  }
  plane.send(peer, as_view(control), attached);
}

void flush(Plane& plane) {
  nb::gil_scoped_release release;
  plane.flush();
}

void bind_events(nb::module_& m) {
  m.attr("EVENT_PEER_MESSAGE") = static_cast<int>(EventKind::kPeerMessage);
  m.attr("EVENT_PEER_UP") = static_cast<int>(EventKind::kPeerUp);
  m.attr("EVENT_PEER_DOWN") = static_cast<int>(EventKind::kPeerDown);
  m.attr("EVENT_BATCH") = static_cast<int>(EventKind::kBatch);
  m.attr("EVENT_READS") = static_cast<int>(EventKind::kReads);
  m.attr("EVENT_ADMIN") = static_cast<int>(EventKind::kAdmin);
  m.attr("EVENT_NOTICE") = static_cast<int>(EventKind::kNotice);
}

}  // namespace

void bind_plane(nb::module_& m) {
  bind_events(m);
  nb::class_<Plane>(m, "Plane")
      .def("__init__", &make_plane, nb::kw_only(), "replica"_a, "cluster"_a, "incarnation"_a,
           "agreement"_a, "peers"_a, "listen_peer"_a, "listen_client"_a,
           "listen_jpaxos"_a.none(), "max_request"_a = 1U << 20, "max_batch"_a = 1U << 18,
           "max_pending"_a = 1U << 23, "max_connections"_a = 10'000, "handshake_seconds"_a = 5.0,
           "frame_seconds"_a = 20.0)
      .def("ports",
           [](const Plane& plane) {
             const auto ports = plane.ports();
             return nb::make_tuple(ports[0], ports[1], ports[2]);
           })
      .def("poll", &poll, "until"_a, "room"_a, "quorum"_a)
      .def("send", &send, "peer"_a, "control"_a, "values"_a)
      .def("deliver", &Plane::deliver, "replies"_a)
      .def("answer",
           [](Plane& plane, std::uint64_t token, const nb::bytes& data) {
             plane.answer(token, as_view(data));
           },
           "token"_a, "data"_a)
      .def("flush", &flush)
      .def("wake", &Plane::wake)
      .def("counters", &Plane::counters)
      .def("set_identity", &Plane::set_identity, "cluster_name"_a, "machine"_a)
      .def("close", &Plane::close);
}

}  // namespace mpaxos
