#include "engine_calls.hpp"

#include "error.hpp"
#include "python_bytes.hpp"

namespace nb = nanobind;

namespace mpaxos {

nb::list begin_slot(Engine& engine, std::uint64_t slot, std::uint64_t time,
                    const std::shared_ptr<Batch>& batch) {
  std::vector<ToRun> requests;
  {
    nb::gil_scoped_release release;
    requests = engine.begin(slot, time, batch);
  }
  nb::list list;
  for (const auto& request : requests) {
    list.append(nb::make_tuple(request.index, request.session, request.sequence,
                               as_bytes(request.payload)));
  }
  return list;
}

ReplySet finish_slot(Engine& engine, const nb::list& replies, const std::vector<Change>& changes) {
  // The list is the caller's alone, and keeps every bytes object until this returns.
  std::vector<RunReply> run;
  run.reserve(replies.size());
  for (nb::handle item : replies) {
    const auto tuple = nb::cast<nb::tuple>(item);
    invariant(tuple.size() == 2, "a reply has two fields");
    const auto payload = nb::cast<nb::bytes>(tuple[1]);
    run.push_back({nb::cast<std::uint8_t>(tuple[0]), as_view(payload)});
  }
  nb::gil_scoped_release release;
  return engine.finish(run, changes);
}

nb::list scan_container(Engine& engine, std::uint32_t container, std::string_view start,
                        std::optional<std::string_view> end, std::size_t limit) {
  const auto map = engine.tree(container);
  nb::list list;
  Tree::Cursor cursor(map, start);
  while (list.size() < limit) {
    const auto* leaf = cursor.next();
    if (leaf == nullptr || (end && leaf->key() >= *end)) break;
    list.append(nb::make_tuple(as_bytes(leaf->key()), as_bytes(leaf->value())));
  }
  return list;
}

}  // namespace mpaxos
