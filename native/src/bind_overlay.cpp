#include <nanobind/stl/string.h>

#include "bindings.hpp"
#include "items.hpp"
#include "kv.hpp"
#include "methods.hpp"
#include "overlay.hpp"
#include "python_bytes.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mpaxos {
namespace {

Text text_of(const nb::bytes& data) { return {as_view(data), data}; }

std::optional<std::string_view> bound_of(const nb::object& end) {
  if (end.is_none()) return std::nullopt;
  return as_view(nb::cast<nb::bytes>(end));  // `end` keeps it
}

nb::object get(Table& table, const nb::bytes& key) {
  const auto found = table.get(as_view(key));
  return found ? nb::object(as_bytes(found->bytes)) : nb::none();
}

nb::list recent(Table& table, const nb::bytes& start, const nb::object& end) {
  nb::list list;
  for (const auto& [key, value] : table.recent(as_view(start), bound_of(end))) {
    list.append(nb::make_tuple(as_bytes(key.bytes),
                               value ? nb::object(as_bytes(value->bytes)) : nb::none()));
  }
  return list;
}

}  // namespace

void bind_overlay(nb::module_& m) {
  m.attr("ITEM_OVERHEAD") = kItemOverhead;
  m.attr("MAX_KEY") = kMaxKey;
  m.attr("Items") = items_class();

  nb::class_<Table>(m, "Table")
      .def("get", &get, "key"_a)
      .def("put", [](Table& self, const nb::bytes& key,
                     const nb::bytes& value) { self.put(text_of(key), text_of(value)); },
           "key"_a, "value"_a)
      .def("delete", [](Table& self, const nb::bytes& key) { return self.erase(text_of(key)); },
           "key"_a)
      .def("__len__", &Table::size)
      .def("recent", &recent, "start"_a, "end"_a.none())
      .def("stored",
           [](Table& self, const nb::bytes& start, const nb::object& end, std::size_t limit) {
             return self.stored(as_view(start), bound_of(end), limit);
           },
           "start"_a, "end"_a.none(), "limit"_a)
      .def("newest", [](Table& self, const nb::bytes& key, nb::bytes value) {
             return self.newest(as_view(key), std::move(value));
           },
           "key"_a, "value"_a)
      .def_prop_ro("name", &Table::name)
      .def_prop_ro("changes", &Table::changes);

  nb::class_<Overlay>(m, "Overlay")
      .def("__init__",
           [](Overlay* self, nb::object engine) {
             new (self) Overlay(overlay_source(std::move(engine)));
           },
           "engine"_a)
      .def("table", &Overlay::table, "name"_a, nb::rv_policy::reference_internal)
      .def("begin", &Overlay::begin, "slot"_a, "time"_a, "batch"_a)
      .def("begin_queries", &Overlay::begin_queries)
      .def("close", &Overlay::close)
      .def("merge", &Overlay::merge, "limit"_a)
      .def("rollback", &Overlay::rollback)
      .def("finish", &Overlay::finish, "replies"_a);

  nb::class_<Methods>(m, "Methods")
      .def(nb::init<nb::object, nb::object, const nb::dict&, nb::object, nb::object>(),
           "machine"_a, "decode"_a.none(), "methods"_a, "explain"_a, "unfit"_a)
      .def("run", &Methods::run, "request"_a)
      .def_prop_ro("running", &Methods::running);
}

}  // namespace mpaxos
