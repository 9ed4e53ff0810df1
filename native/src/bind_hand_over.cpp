#include <nanobind/stl/shared_ptr.h>

#include "bindings.hpp"
#include "error.hpp"
#include "hand_over.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace mpaxos {
namespace {

using Kind = HandOver::Kind;

BatchPtr given(const std::shared_ptr<Batch>& batch) {
  invariant(batch != nullptr, "a batch is handed over");
  return batch;
}

nb::tuple take(HandOver& hand_over) {
  HandOver::Work work;
  {
    nb::gil_scoped_release release;
    work = hand_over.take();
  }
  return nb::make_tuple(static_cast<int>(work.kind), work.slot, work.time, work.batch);
}

void done(HandOver& hand_over, std::uint64_t slot, std::uint64_t digest, ReplySet& replies) {
  nb::gil_scoped_release release;
  hand_over.done({slot, digest, std::move(replies)});
}

nb::list results(HandOver& hand_over) {
  nb::list list;
  if (!hand_over.has_results()) return list;
  for (auto& result : hand_over.take_results()) {
    list.append(nb::make_tuple(result.slot, result.digest, nb::cast(std::move(result.replies))));
  }
  return list;
}

}  // namespace

void bind_hand_over(nb::module_& m) {
  m.attr("WORK_SLOT") = static_cast<int>(Kind::kSlot);
  m.attr("WORK_READS") = static_cast<int>(Kind::kReads);
  m.attr("WORK_CALL") = static_cast<int>(Kind::kCall);
  m.attr("WORK_STOP") = static_cast<int>(Kind::kStop);

  nb::class_<HandOver>(m, "HandOver", nb::is_final())
      .def(nb::init<>())
      .def(
          "put_slot",
          [](HandOver& self, std::uint64_t slot, std::uint64_t time,
             const std::shared_ptr<Batch>& batch) {
            self.put({.kind = Kind::kSlot, .slot = slot, .time = time, .batch = given(batch)});
          },
          "slot"_a, "time"_a, "batch"_a)
      .def(
          "put_reads",
          [](HandOver& self, const std::shared_ptr<Batch>& batch) {
            self.put({.kind = Kind::kReads, .batch = given(batch)});
          },
          "batch"_a)
      .def("put_call", [](HandOver& self) { self.put({.kind = Kind::kCall}); })
      .def("stop", &HandOver::stop)
      .def("results", &results)
      .def("take", &take)
      .def("done", &done, "slot"_a, "digest"_a, "replies"_a);
}

}  // namespace mpaxos
