#include "bindings.hpp"

namespace mpaxos {

void bind_storage(nanobind::module_&) {}

}  // namespace mpaxos
