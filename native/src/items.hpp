// The base of mpaxos.containers.Dict: what is done once and more in a typical command, without a
// Python function between the machine's code and the overlay.
#pragma once

#include <nanobind/nanobind.h>

namespace mpaxos {

// The class. Plain CPython, so that a class with another metaclass can derive from it.
nanobind::object items_class();

}  // namespace mpaxos
