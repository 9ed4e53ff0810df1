#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include "bindings.hpp"
#include "engine_calls.hpp"
#include "error.hpp"
#include "file_pool.hpp"
#include "python_bytes.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mpaxos {
namespace {

ReplySet apply_kv(Engine& engine, std::uint64_t slot, std::uint64_t time,
                  const std::shared_ptr<Batch>& batch) {
  nb::gil_scoped_release release;
  return engine.apply_kv(slot, time, batch);
}

ReplySet query_kv(Engine& engine, const std::shared_ptr<Batch>& batch) {
  nb::gil_scoped_release release;
  return engine.query_kv(*batch);
}

Change change_of(Engine& engine, nb::handle item) {
  const auto tuple = nb::cast<nb::tuple>(item);
  invariant(tuple.size() == 3, "a change has three fields");
  Change change{.container = nb::cast<std::uint32_t>(tuple[0]),
                .key = as_view(nb::cast<nb::bytes>(tuple[1])),
                .value = std::nullopt,
                .found = nullptr};
  invariant(change.key.size() <= kMaxKey, "a key is longer than 65536 bytes");
  if (!tuple[2].is_none()) change.value = as_view(nb::cast<nb::bytes>(tuple[2]));
  change.found = engine.tree(change.container).find(change.key);
  return change;
}

ReplySet finish(Engine& engine, const nb::list& replies, const nb::list& changes) {
  std::vector<Change> merged;
  merged.reserve(changes.size());
  for (nb::handle item : changes) merged.push_back(change_of(engine, item));
  return finish_slot(engine, replies, merged);
}

nb::object get(Engine& engine, std::uint32_t container, const nb::bytes& key) {
  const auto map = engine.tree(container);
  const auto* leaf = map.find(as_view(key));
  if (leaf == nullptr) return nb::none();
  return as_bytes(leaf->value());
}

nb::list scan(Engine& engine, std::uint32_t container, const nb::bytes& start, nb::object end,
              std::size_t limit) {
  std::optional<std::string_view> stop;
  if (!end.is_none()) stop = as_view(nb::cast<nb::bytes>(end));
  return scan_container(engine, container, as_view(start), stop, limit);
}

std::uint64_t pack(Engine& engine, unsigned percent) {
  nb::gil_scoped_release release;
  return engine.pack(percent);
}

std::uint64_t state_digest(Engine& engine) {
  nb::gil_scoped_release release;
  return engine.state_digest();
}

}  // namespace

void bind_engine(nb::module_& m) {
  nb::class_<Engine>(m, "Engine")
      .def(
          "__init__",
          [](Engine* self, FilePool& pool) {
            invariant(!pool.log_only(), "an engine in a pool that is for a log only");
            new (self) Engine(pool);
          },
          "pool"_a,
          nb::keep_alive<1, 2>())
      .def("apply_kv", &apply_kv, "slot"_a, "time"_a, "batch"_a)
      .def("query_kv", &query_kv, "batch"_a)
      .def("begin", &begin_slot, "slot"_a, "time"_a, "batch"_a)
      .def("finish", &finish, "replies"_a, "changes"_a)
      .def_prop_ro("mark",
                   [](const Engine& engine) { return std::pair(engine.slot(), engine.digest()); })
      .def("container", &Engine::container, "name"_a)
      .def("get", &get, "container"_a, "key"_a)
      .def("scan", &scan, "container"_a, "start"_a, "end"_a.none(), "limit"_a)
      .def("size", [](Engine& e, std::uint32_t container) { return e.tree(container).count(); },
           "container"_a)
      .def("pack", &pack, "percent"_a)
      .def("state_used", &Engine::state_used)
      .def("state_digest", &state_digest);
}

}  // namespace mpaxos
