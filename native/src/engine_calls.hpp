// Calls of the engine with requests and replies as Python has them. What takes its time runs
// without the interpreter.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "engine.hpp"

namespace mpaxos {

// The requests to run: tuples of index, session, sequence, payload.
nanobind::list begin_slot(Engine& engine, std::uint64_t slot, std::uint64_t time,
                          const std::shared_ptr<Batch>& batch);

// `replies`: tuples of status and payload.
ReplySet finish_slot(Engine& engine, const nanobind::list& replies,
                     const std::vector<Change>& changes);

// Tuples of key and value.
nanobind::list scan_container(Engine& engine, std::uint32_t container, std::string_view start,
                              std::optional<std::string_view> end, std::size_t limit);

}  // namespace mpaxos
