#include <nanobind/nanobind.h>

#include "bindings.hpp"
#include "python_errors.hpp"

namespace nb = nanobind;

namespace {

void translate(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const mpaxos::Error& error) {
    mpaxos::raise_in_python(error);
  }
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "The C++ extension of mpaxos: sockets, batches and persistent memory.";
  nb::register_exception_translator(translate);
  // What compiled modules refer to (mpaxos.compiled) is alive to the very end: they have no end.
  nb::set_leak_warnings(false);
  mpaxos::bind_values(m);
  mpaxos::bind_plane(m);
  mpaxos::bind_storage(m);
  mpaxos::bind_engine(m);
  mpaxos::bind_overlay(m);
  mpaxos::bind_image(m);
  mpaxos::bind_wal(m);
  mpaxos::bind_steady(m);
  mpaxos::bind_hand_over(m);
}
