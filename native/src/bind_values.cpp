#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include "batch.hpp"
#include "bindings.hpp"
#include "checksum.hpp"
#include "error.hpp"
#include "python_bytes.hpp"
#include "replies.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mpaxos {
namespace {

// A contiguous, readable Python buffer for the time of one call.
class View {
 public:
  explicit View(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_SIMPLE) != 0) throw nb::python_error();
  }
  ~View() { PyBuffer_Release(&buffer_); }
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  std::string_view bytes() const {
    return {static_cast<const char*>(buffer_.buf), static_cast<std::size_t>(buffer_.len)};
  }

 private:
  Py_buffer buffer_{};
};

nb::list entries_of(const Batch& batch) {
  nb::list list;
  Entry entry;
  for (EntryCursor cursor(batch); cursor.next(entry);) {
    list.append(nb::make_tuple(entry.header.session, entry.header.sequence, entry.header.lowest,
                               static_cast<int>(entry.header.kind), as_bytes(entry.payload)));
  }
  return list;
}

BatchPtr build(std::uint16_t origin, std::uint64_t incarnation, std::uint64_t number,
               const nb::list& entries) {
  BatchBuilder builder;
  for (nb::handle item : entries) {
    const auto tuple = nb::cast<nb::tuple>(item);
    if (tuple.size() != 5) throw Error(ErrorKind::kWire, "an entry has five fields");
    const auto payload = nb::cast<nb::bytes>(tuple[4]);
    EntryHeader header{};
    header.session = nb::cast<std::uint64_t>(tuple[0]);
    header.sequence = nb::cast<std::uint64_t>(tuple[1]);
    header.lowest = nb::cast<std::uint64_t>(tuple[2]);
    header.kind = nb::cast<std::uint8_t>(tuple[3]);
    header.length = static_cast<std::uint32_t>(payload.size());
    builder.append(header, as_view(payload));
  }
  return builder.seal(origin, incarnation, number);
}

nb::list entries_of(const ReplySet& replies) {
  nb::list list;
  for (std::size_t i = 0; i < replies.size(); ++i) {
    const auto reply = replies.at(i);
    list.append(nb::make_tuple(reply.session, reply.sequence, static_cast<int>(reply.status),
                               as_bytes(reply.payload)));
  }
  return list;
}

void bind_constants(nb::module_& m) {
  m.attr("ENTRY_COMMAND") = static_cast<int>(kEntryCommand);
  m.attr("ENTRY_OPEN") = static_cast<int>(kEntryOpen);
  m.attr("ENTRY_CLOSE") = static_cast<int>(kEntryClose);
  m.attr("ENTRY_QUERY") = static_cast<int>(kEntryQuery);
  m.attr("STATUS_OK") = static_cast<int>(kStatusOk);
  m.attr("STATUS_FAILED") = static_cast<int>(kStatusFailed);
  m.attr("STATUS_EXPIRED") = static_cast<int>(kStatusExpired);
  m.attr("STATUS_NOSPACE") = static_cast<int>(kStatusNoSpace);
  m.attr("STATUS_REFUSED") = static_cast<int>(kStatusRefused);
  m.attr("STATUS_OVERLOADED") = static_cast<int>(kStatusOverloaded);
  m.attr("STATUS_BAD") = static_cast<int>(kStatusBad);
  m.attr("STATUS_OPENED") = static_cast<int>(kStatusOpened);
}

}  // namespace

void bind_values(nb::module_& m) {
  bind_constants(m);
  m.def(
      "crc32c", [](nb::handle data, std::uint32_t crc) { return crc32c(View(data).bytes(), crc); },
      "data"_a, "crc"_a = 0);
  m.def("digest64", [](nb::handle data) { return digest64(View(data).bytes()); }, "data"_a);

  nb::class_<Batch>(m, "Batch")
      .def_prop_ro("digest", &Batch::digest)
      .def_prop_ro("length", [](const Batch& b) { return b.bytes().size(); })
      .def_prop_ro("count", [](const Batch& b) { return b.header().count; })
      .def_prop_ro("origin", [](const Batch& b) { return b.header().origin; })
      .def_prop_ro("incarnation", [](const Batch& b) { return b.header().incarnation; })
      .def_prop_ro("number", [](const Batch& b) { return b.header().number; })
      .def_static("parse",
                  [](const nb::bytes& data) { return Batch::parse(std::string(as_view(data))); },
                  "data"_a)
      .def_static(
          "noop",
          [](std::uint16_t origin, std::uint64_t incarnation, std::uint64_t number) {
            return BatchBuilder().seal(origin, incarnation, number);
          },
          "origin"_a = 0, "incarnation"_a = 0, "number"_a = 0)
      .def_static("build", &build, "origin"_a, "incarnation"_a, "number"_a, "entries"_a)
      .def("data", [](const Batch& b) { return as_bytes(b.bytes()); })
      .def("entries", [](const Batch& b) { return entries_of(b); });

  nb::class_<ReplySet>(m, "ReplySet")
      .def(nb::init<>())
      .def("add",
           [](ReplySet& set, std::uint64_t session, std::uint64_t sequence, std::uint8_t status,
              const nb::bytes& payload) { set.add(session, sequence, status, as_view(payload)); },
           "session"_a, "sequence"_a, "status"_a, "payload"_a)
      .def("entries", [](const ReplySet& set) { return entries_of(set); })
      .def("__len__", &ReplySet::size);
}

}  // namespace mpaxos
