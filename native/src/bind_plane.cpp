#include "bindings.hpp"

namespace mpaxos {

void bind_plane(nanobind::module_&) {}

}  // namespace mpaxos
