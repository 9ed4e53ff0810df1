// Steady for Python. The simulated world drives it event by event, with batches of its own; a
// replica only hands mandates over and takes them back, and its plane does the rest.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bindings.hpp"
#include "error.hpp"
#include "plane_steady.hpp"
#include "steady.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mpaxos {

namespace {

nb::object batch_object(const Item& item) {
  if (item.batch) return nb::cast(item.batch);
  if (item.foreign) return *static_cast<nb::object*>(item.foreign.get());
  return nb::none();
}

using Pair = std::pair<std::uint64_t, std::uint64_t>;

Item item_from(nb::handle object) {
  if (object.is_none()) return {};
  std::shared_ptr<Batch> batch;
  if (nb::try_cast(object, batch, false)) return item_of(batch);
  const auto number = [&](const char* name) {
    return nb::cast<std::uint64_t>(nb::getattr(object, name));
  };
  return {.incarnation = number("incarnation"),
          .number = number("number"),
          .length = number("length"),
          .origin = nb::cast<std::uint32_t>(nb::getattr(object, "origin")),
          .batch = nullptr,
          .foreign = std::make_shared<nb::object>(nb::borrow(object))};
}

SlotMark mark_from(nb::handle object) {
  const auto [slot, digest] = nb::cast<Pair>(object);
  return {slot, digest};
}

nb::tuple mark_to(const SlotMark& mark) { return nb::make_tuple(mark.slot, mark.digest); }

template <typename T, typename Convert>
nb::list list_to(const T& items, Convert convert) {
  nb::list list;
  for (const auto& item : items) list.append(convert(item));
  return list;
}

std::vector<ReadAt> reads_from(nb::handle object) {
  std::vector<ReadAt> reads;
  for (nb::handle read : object) {
    reads.push_back({item_from(read[0]), nb::cast<std::uint64_t>(read[1])});
  }
  return reads;
}

nb::list reads_to(const std::vector<ReadAt>& reads) {
  return list_to(reads, [](const ReadAt& read) {
    return nb::make_tuple(batch_object(read.item), read.slot);
  });
}

nb::list settled_to(const std::vector<Settled>& settled) {
  return list_to(settled, [](const Settled& one) {
    return nb::make_tuple(one.slot, one.time, batch_object(one.item));
  });
}

Flight flight_from(nb::handle row) {
  Flight flight;
  flight.slot = nb::cast<std::uint64_t>(row[0]);
  flight.time = nb::cast<std::uint64_t>(row[1]);
  flight.sent_at = nb::cast<std::int64_t>(row[2]);
  flight.votes = nb::cast<std::uint32_t>(row[3]);
  flight.item = item_from(row[4]);
  flight.held = flight.item.batch || flight.item.foreign;
  return flight;
}

// The fields of mpaxos.core.standing.Standing, in their order.
Standing standing_from(const nb::tuple& t) {
  invariant(t.size() == 25, "a standing has 25 fields");
  Standing at;
  std::tie(at.round, at.leader) = nb::cast<std::pair<std::uint64_t, std::uint32_t>>(t[0]);
  at.decided = nb::cast<std::uint64_t>(t[2]);
  at.applied = nb::cast<std::uint64_t>(t[3]);
  at.newest = mark_from(t[4]);
  at.agreed = mark_from(t[5]);
  at.room = nb::cast<std::uint64_t>(t[6]);
  at.decided_time = nb::cast<std::uint64_t>(t[7]);
  for (nb::handle row : t[8]) at.flights.push_back(flight_from(row));
  for (nb::handle row : t[9]) {
    at.outbox.push_back({item_from(row[0]), nb::cast<std::int64_t>(row[1])});
  }
  at.said = nb::cast<std::uint64_t>(t[10]);
  at.by_all = nb::cast<std::uint64_t>(t[11]);
  at.heard_at = nb::cast<std::int64_t>(t[12]);
  at.proposed_time = nb::cast<std::uint64_t>(t[13]);
  for (nb::handle batch : t[14]) at.queue.push_back(item_from(batch));
  for (nb::handle row : t[15]) {
    const auto origin = nb::cast<std::uint32_t>(row[0]);
    if (origin >= kMaxReplicas) continue;
    at.seen[origin] = {nb::cast<std::uint64_t>(row[1]), nb::cast<std::uint64_t>(row[2])};
  }
  for (nb::handle row : t[16]) {
    auto& peer = at.peers.at(nb::cast<std::size_t>(row[0]));
    peer.applied = nb::cast<std::uint64_t>(row[2]);
    peer.acked = nb::cast<std::uint64_t>(row[3]);
  }
  at.beat = nb::cast<std::uint64_t>(t[17]);
  at.asked_beat = nb::cast<std::uint64_t>(t[18]);
  at.waiting = reads_from(t[20]);
  at.confirming = reads_from(t[21]);
  at.ready = reads_from(t[22]);
  return at;
}

nb::list peers_to(const Standing& at) {
  nb::list list;
  for (std::size_t id = 0; id < at.peers.size(); ++id) {
    const auto& peer = at.peers[id];
    if (peer.heard_at == 0) continue;
    list.append(nb::make_tuple(id, peer.heard_at, peer.applied, peer.acked,
                               mark_to(peer.reported), peer.reported_at));
  }
  return list;
}

nb::list seen_to(const Standing& at) {
  nb::list list;
  for (std::size_t origin = 0; origin < at.seen.size(); ++origin) {
    const auto& seen = at.seen[origin];
    if (seen.number == 0) continue;
    list.append(nb::make_tuple(origin, seen.incarnation, seen.number));
  }
  return list;
}

nb::list flights_to(const Standing& at) {
  return list_to(at.flights, [](const Flight& one) {
    return nb::make_tuple(one.slot, one.time, one.sent_at, one.votes, batch_object(one.item));
  });
}

nb::object end(Steady& steady) {
  if (!steady.active()) return nb::none();
  const auto at = steady.end();
  if (at.now == 0) return nb::none();
  nb::list t;
  t.append(nb::make_tuple(at.round, at.leader));
  t.append(at.now);
  t.append(at.decided);
  t.append(at.applied);
  t.append(mark_to(at.newest));
  t.append(mark_to(at.agreed));
  t.append(at.room);
  t.append(at.decided_time);
  t.append(flights_to(at));
  t.append(list_to(at.outbox, [](const Own& own) {
    return nb::make_tuple(batch_object(own.item), own.sent_at);
  }));
  t.append(at.said);
  t.append(at.by_all);
  t.append(at.heard_at);
  t.append(at.proposed_time);
  t.append(list_to(at.queue, batch_object));
  t.append(seen_to(at));
  t.append(peers_to(at));
  t.append(at.beat);
  t.append(at.asked_beat);
  t.append(at.beat_at);
  t.append(reads_to(at.waiting));
  t.append(reads_to(at.confirming));
  t.append(reads_to(at.ready));
  t.append(list_to(at.marks, mark_to));
  t.append(list_to(at.remembered, [](const BatchId& id) {
    return nb::make_tuple(id.origin, id.incarnation, id.number);
  }));
  return nb::tuple(t);
}

const char* kind_name(LetterKind kind) {
  switch (kind) {
    case LetterKind::kAccept: return "accept";
    case LetterKind::kAccepted: return "accepted";
    case LetterKind::kForward: return "forward";
    case LetterKind::kHeartbeat: return "heartbeat";
    case LetterKind::kAlive: return "alive";
  }
  return "";
}

// A message of the simulated network: the native codec makes and reads the real ones.
nb::tuple letter_to(const Letter& letter) {
  return nb::make_tuple(kind_name(letter.kind), letter.to, letter.slot, letter.decided,
                        letter.applied, letter.time, mark_to(letter.mark),
                        batch_object(letter.item));
}

nb::tuple finish(Steady& steady) {
  const auto& turn = steady.finish();
  return nb::make_tuple(settled_to(turn.records), list_to(turn.letters, letter_to),
                        settled_to(turn.decided), list_to(turn.reads, batch_object));
}

// (kind, (round, leader), slot or number, decided, applied, time, mark, vote, batch)
bool on_message(Steady& steady, std::uint32_t sender, const nb::tuple& m) {
  const auto kind = nb::cast<std::string>(m[0]);
  if (kind == "forward") return steady.on_forward(sender, item_from(m[8]));
  const auto [round, leader] = nb::cast<Pair>(m[1]);
  if (!steady.of_ballot(round, leader)) return false;
  Letter letter{.kind = LetterKind::kAccept,
                .to = 0,
                .slot = nb::cast<std::uint64_t>(m[2]),
                .decided = nb::cast<std::uint64_t>(m[3]),
                .applied = nb::cast<std::uint64_t>(m[4]),
                .time = nb::cast<std::uint64_t>(m[5]),
                .mark = mark_from(m[6]),
                .item = item_from(m[8])};
  if (kind == "accept") {
    return nb::cast<bool>(m[7]) && steady.on_accept(sender, letter.slot, letter.decided,
                                                    letter.time, std::move(letter.item));
  }
  if (kind == "accepted") return steady.on_accepted(sender, letter.slot, letter.applied);
  if (kind == "heartbeat") return steady.on_heartbeat(sender, letter);
  return kind == "alive" && steady.on_alive(sender, letter);
}

nb::bytes encoded(const std::string& kind, const Pair& ballot, std::uint64_t slot,
                  std::uint64_t decided, std::uint64_t applied, const Pair& mark) {
  Letter letter{.kind = LetterKind::kForward,
                .to = 0,
                .slot = slot,
                .decided = decided,
                .applied = applied,
                .mark = {mark.first, mark.second},
                .item = {}};
  for (const auto known : {LetterKind::kAccept, LetterKind::kAccepted, LetterKind::kHeartbeat,
                           LetterKind::kAlive}) {
    if (kind == kind_name(known)) letter.kind = known;
  }
  std::string out;
  encode_letter(out, letter, ballot.first, ballot.second);
  return nb::bytes(out.data(), out.size());
}

nb::object decoded(const nb::bytes& control, std::size_t values) {
  Incoming in;
  if (!decode_letter({control.c_str(), control.size()}, values, in)) return nb::none();
  return nb::make_tuple(kind_name(in.letter.kind), nb::make_tuple(in.round, in.leader),
                        in.slots.empty() ? nb::cast(in.letter.slot) : nb::cast(in.slots),
                        in.letter.decided, in.letter.applied, mark_to(in.letter.mark), in.vote);
}

}  // namespace

void bind_steady(nb::module_& m) {
  nb::class_<Steady>(m, "Steady", nb::is_final())
      .def(
          "__init__",
          [](Steady* self, std::uint32_t replica, std::uint32_t replicas, std::uint64_t window,
             std::uint64_t local_batches, std::uint64_t max_apply_lag, std::uint64_t mark_interval,
             std::uint64_t record_overhead, std::uint64_t log_size, std::int64_t epoch,
             std::uint64_t incarnation) {
            new (self) Steady({replica, replicas, window, local_batches, max_apply_lag,
                               mark_interval, record_overhead, log_size, epoch, incarnation});
          },
          nb::kw_only(), "replica"_a, "replicas"_a, "window"_a, "local_batches"_a,
          "max_apply_lag"_a, "mark_interval"_a, "record_overhead"_a, "log_size"_a, "epoch"_a,
          "incarnation"_a)
      .def_prop_ro("active", &Steady::active)
      .def_prop_ro("decided", [](const Steady& steady) { return steady.standing().decided; })
      .def_prop_ro("room", &Steady::room_for_batches)
      .def("begin", [](Steady& s, const nb::tuple& standing) { s.begin(standing_from(standing)); },
           "standing"_a)
      .def("end", &end)
      .def("copy", [](const Steady& steady) { return Steady(steady); })
      .def("begin_turn", &Steady::begin_turn, "now"_a)
      .def("on_batch", [](Steady& s, nb::handle batch) { return s.on_batch(item_from(batch)); },
           "batch"_a)
      .def("on_reads", [](Steady& s, nb::handle batch) { return s.on_reads(item_from(batch)); },
           "batch"_a)
      .def("on_message", &on_message, "sender"_a, "message"_a)
      .def("on_applied",
           [](Steady& s, std::uint64_t slot, const nb::list& marks) {
             if (!s.active()) return;
             s.on_applied(slot);
             for (nb::handle mark : marks) s.on_mark(mark_from(mark));
           },
           "slot"_a, "marks"_a)
      .def("on_room", &Steady::on_room, "room"_a)
      .def("finish", &finish)
      .def_static("encoded", &encoded, "kind"_a, "ballot"_a, "slot"_a, "decided"_a, "applied"_a,
                  "mark"_a)
      .def_static("decoded", &decoded, "control"_a, "values"_a);
}

}  // namespace mpaxos
