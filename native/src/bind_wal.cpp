#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <cstring>

#include "bindings.hpp"
#include "error.hpp"
#include "wal.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mpaxos {
namespace {

std::array<std::uint8_t, 16> cluster_id(const nb::bytes& bytes) {
  if (bytes.size() != 16) throw Error(ErrorKind::kConfig, "a cluster id has 16 bytes");
  std::array<std::uint8_t, 16> id{};
  std::memcpy(id.data(), bytes.c_str(), id.size());
  return id;
}

void create(const std::string& path, const nb::bytes& cluster, std::uint32_t replica,
            std::uint32_t segments, std::uint64_t segment_size) {
  WalSpec spec{path, {}, replica, segments, segment_size};
  const auto id = cluster_id(cluster);
  std::memcpy(spec.cluster, id.data(), id.size());
  nb::gil_scoped_release release;
  create_wal(spec);
}

void open_wal(Wal* self, const std::string& path, const nb::bytes& cluster, std::uint32_t replica,
              std::uint64_t cache_size, bool traced) {
  const WalIdentity identity{cluster_id(cluster), replica};
  nb::gil_scoped_release release;
  new (self) Wal(path, identity, cache_size, traced);
}

// (kind, slot, round, leader, time, batch or None)
std::vector<WalItem> items_of(const nb::list& list) {
  std::vector<WalItem> items;
  items.reserve(list.size());
  for (nb::handle item : list) {
    const auto tuple = nb::cast<nb::tuple>(item);
    invariant(tuple.size() == 6, "a write has six fields");
    const auto kind = nb::cast<std::uint8_t>(tuple[0]);
    const bool is_record = kind == kWalRecord;
    invariant(is_record || kind == kWalPromise || kind == kWalTruncate || kind == kWalDecided,
              "an unknown kind of write");
    invariant(is_record == !tuple[5].is_none(), "a record has a batch, nothing else has one");
    items.push_back({static_cast<WalKind>(kind), nb::cast<std::uint64_t>(tuple[1]),
                     nb::cast<std::uint64_t>(tuple[2]), nb::cast<std::uint32_t>(tuple[3]),
                     nb::cast<std::uint64_t>(tuple[4]),
                     is_record ? nb::cast<std::shared_ptr<Batch>>(tuple[5]) : nullptr});
  }
  return items;
}

void write(Wal& wal, const nb::list& writes) {
  const auto items = items_of(writes);
  nb::gil_scoped_release release;
  wal.write(items);
}

std::uint64_t submit(Wal& wal, const nb::list& writes) {
  const auto items = items_of(writes);
  nb::gil_scoped_release release;
  return wal.submit(items);
}

nb::object read(Wal& wal, std::uint64_t slot) {
  std::optional<RecordOut> record;
  {
    nb::gil_scoped_release release;
    record = wal.read(slot);
  }
  if (!record) return nb::none();
  return nb::make_tuple(record->round, record->leader, record->time,
                        std::const_pointer_cast<Batch>(record->batch));
}

nb::list slots(Wal& wal) {
  nb::list list;
  for (const auto& [slot, known] : wal.slots()) {
    list.append(nb::make_tuple(slot, known.ballot.first, known.ballot.second));
  }
  return list;
}

nb::dict info(Wal& wal) {
  nb::dict d;
  d["format"] = kWalFormat;
  d["segments"] = wal.header().files;
  d["segment_size"] = wal.header().size;
  d["segment"] = wal.segment();
  d["free_segments"] = wal.free_segments();
  d["log_size"] = wal.capacity();
  d["log_used"] = wal.capacity() - wal.room();
  d["largest"] = wal.largest();
  d["generation"] = wal.generation();
  d["torn"] = wal.torn();
  return d;
}

nb::list calls(Wal& wal) {
  invariant(wal.trace() != nullptr, "the log was not opened with traced=True");
  nb::list list;
  for (const auto& call : wal.trace()->take()) {
    list.append(nb::make_tuple(std::string(1, call.what), call.file, call.offset,
                               nb::bytes(call.bytes.data(), call.bytes.size())));
  }
  return list;
}

void fail_after(Wal& wal, std::int64_t calls) {
  invariant(wal.trace() != nullptr, "the log was not opened with traced=True");
  wal.trace()->fail_after(calls);
}

}  // namespace

void bind_wal(nb::module_& m) {
  m.attr("WAL_PROMISE") = static_cast<int>(kWalPromise);
  m.attr("WAL_RECORD") = static_cast<int>(kWalRecord);
  m.attr("WAL_TRUNCATE") = static_cast<int>(kWalTruncate);
  m.attr("WAL_DECIDED") = static_cast<int>(kWalDecided);
  const auto released = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Wal>(m, "Wal")
      .def_static("create", &create, "path"_a, nb::kw_only(), "cluster"_a, "replica"_a,
                  "segments"_a, "segment_size"_a)
      .def("__init__", &open_wal, "path"_a, nb::kw_only(), "cluster"_a, "replica"_a,
           "cache_size"_a = 32 << 20, "traced"_a = false)
      .def("info", &info)
      .def_prop_ro("promised", [](Wal& wal) { return wal.promised(); })
      .def_prop_ro("truncated_upto", &Wal::truncated_upto)
      .def_prop_ro("decided_upto", &Wal::decided_upto)
      .def_prop_ro("log_room", &Wal::room)
      .def_prop_ro("log_size", &Wal::capacity)
      .def("slots", &slots)
      .def("write", &write, "writes"_a)
      .def("submit", &submit, "writes"_a)
      .def("wait", &Wal::wait, "ticket"_a, released)
      .def("durable_upto", &Wal::durable_upto, released)
      .def("fileno", &Wal::event)
      .def("read", &read, "slot"_a)
      .def("close", &Wal::close, released)
      .def("calls", &calls)
      .def("fail_after", &fail_after, "calls"_a);
}

}  // namespace mpaxos
