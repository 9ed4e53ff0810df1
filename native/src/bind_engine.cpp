#include "bindings.hpp"

namespace mpaxos {

void bind_engine(nanobind::module_&) {}

}  // namespace mpaxos
