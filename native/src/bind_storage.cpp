#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "bindings.hpp"
#include "error.hpp"
#include "file_pool.hpp"
#include "image_target.hpp"
#include "reserve.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mpaxos {
namespace {

using Ballot = std::pair<std::uint64_t, std::uint32_t>;

std::array<std::uint8_t, 16> cluster_id(const nb::bytes& bytes) {
  if (bytes.size() != 16) throw Error(ErrorKind::kConfig, "a cluster id has 16 bytes");
  std::array<std::uint8_t, 16> id{};
  std::memcpy(id.data(), bytes.c_str(), id.size());
  return id;
}

void create(const std::string& path, std::uint64_t size, std::uint64_t log_size,
            const nb::bytes& cluster, std::uint32_t replica, std::uint32_t replicas,
            const std::string& machine, std::uint64_t state_limit, std::uint64_t max_sessions,
            std::uint64_t max_reply_slots, bool installing, bool log_only, bool brief) {
  invariant(log_only == (max_sessions == 0), "sessions are where the state is");
  invariant(!(log_only && installing), "no image is installed in a pool for a log only");
  const PoolSpec spec{path,
                      size,
                      log_size / kUnit * kUnit,
                      cluster_id(cluster),
                      replica,
                      replicas,
                      machine,
                      {state_limit, max_sessions, max_reply_slots},
                      installing ? sizeof(Installation) : 0,
                      brief        ? Pages::kAsTheyCome
                      : installing ? Pages::kTouched
                                   : Pages::kLarge};
  nb::gil_scoped_release release;
  FilePool::create(spec);
}

void open_pool(FilePool* self, const std::string& path, const nb::bytes& cluster,
               std::uint32_t replica, std::uint64_t size, bool installing) {
  const auto id = cluster_id(cluster);
  nb::gil_scoped_release release;
  new (self) FilePool(path, id, replica, size, installing);
}

nb::dict info(FilePool& pool) {
  const auto& header = pool.header();
  const auto& root = pool.engine_root().applied;
  nb::dict d;
  d["format"] = header.format;
  d["size"] = header.size;
  d["log_size"] = pool.log().capacity();
  d["log_used"] = pool.log().used();
  d["replicas"] = header.replicas;
  d["machine"] = std::string(header.machine);
  d["state_limit"] = header.limits.state_limit;
  d["max_sessions"] = header.limits.max_sessions;
  d["max_reply_slots"] = header.limits.max_reply_slots;
  d["state_used"] = load_shared(root.state_used);
  d["sessions"] = load_shared(root.sessions);
  d["reply_slots"] = load_shared(root.reply_slots);
  d["packings"] = pool.packings.load();
  d["is_pmem"] = static_cast<int>(pool.is_pmem());
  return d;
}

// (slot, round, leader, time, batch)
RecordIn record_of(nb::handle item) {
  const auto tuple = nb::cast<nb::tuple>(item);
  invariant(tuple.size() == 5, "a record has five fields");
  return {nb::cast<std::uint64_t>(tuple[0]), nb::cast<std::uint64_t>(tuple[1]),
          nb::cast<std::uint32_t>(tuple[2]), nb::cast<std::uint64_t>(tuple[3]),
          nb::cast<std::shared_ptr<Batch>>(tuple[4])};
}

void write(FilePool& pool, const std::optional<Ballot>& promise, const nb::list& records,
           std::uint64_t truncate_upto) {
  std::vector<RecordIn> list;
  list.reserve(records.size());
  for (nb::handle item : records) list.push_back(record_of(item));
  std::optional<Promise> promised;
  if (promise) promised = Promise{promise->first, promise->second};
  nb::gil_scoped_release release;
  pool.write(promised, list, truncate_upto);
}

nb::object read(FilePool& pool, std::uint64_t slot) {
  std::optional<RecordOut> record;
  {
    nb::gil_scoped_release release;
    record = pool.log().read(slot);
  }
  if (!record) return nb::none();
  return nb::make_tuple(record->round, record->leader, record->time,
                        std::const_pointer_cast<Batch>(record->batch));
}

template <std::uint64_t AppliedRoot::* Field>
std::uint64_t applied(FilePool& pool) {
  return load_shared(pool.engine_root().applied.*Field);
}

}  // namespace

void bind_storage(nb::module_& m) {
  m.def("gives_large_pages", &gives_large_pages, "directory"_a);
  nb::class_<FilePool>(m, "Pool")
      .def_static("create", &create, "path"_a, nb::kw_only(), "size"_a, "log_size"_a, "cluster"_a,
                  "replica"_a, "replicas"_a, "machine"_a, "state_limit"_a, "max_sessions"_a,
                  "max_reply_slots"_a, "installing"_a = false, "log_only"_a = false,
                  "brief"_a = false)
      .def("__init__", &open_pool, "path"_a, nb::kw_only(), "cluster"_a, "replica"_a, "size"_a,
           "installing"_a = false)
      .def("info", &info)
      .def_prop_ro("promised",
                   [](FilePool& p) { return Ballot(p.promised().round, p.promised().leader); })
      .def_prop_ro("installing", &FilePool::installing)
      .def_prop_ro("log_only", &FilePool::log_only)
      .def_prop_ro("applied_upto", &applied<&AppliedRoot::slot>)
      .def_prop_ro("applied_digest", &applied<&AppliedRoot::digest>)
      .def_prop_ro("applied_time", &applied<&AppliedRoot::time>)
      .def_prop_ro("decided_upto", &FilePool::decided_upto)
      .def("write_decided", &FilePool::write_decided, "upto"_a)
      .def_prop_ro("truncated_upto", [](FilePool& p) { return p.log().truncated_upto(); })
      .def_prop_ro("log_room", [](FilePool& p) { return p.log().room(); })
      .def_prop_ro("log_size", [](FilePool& p) { return p.log().capacity(); })
      .def("slots", [](FilePool& p) { return p.log().slots(); })
      .def("write", &write, "promise"_a.none(), "records"_a, "truncate_upto"_a)
      .def("read", &read, "slot"_a)
      .def("close", &FilePool::close);
}

}  // namespace mpaxos
