#include <nanobind/nanobind.h>

#include "bindings.hpp"
#include "error.hpp"

namespace nb = nanobind;

namespace {

const char* python_name(mpaxos::ErrorKind kind) {
  using mpaxos::ErrorKind;
  switch (kind) {
    case ErrorKind::kWire: return "WireError";
    case ErrorKind::kConfig: return "ConfigError";
    case ErrorKind::kStorageMissing: return "StorageMissing";
    case ErrorKind::kStorageForeign: return "StorageForeign";
    case ErrorKind::kStorageLocked: return "StorageLocked";
    case ErrorKind::kStorageVersion: return "StorageVersion";
    case ErrorKind::kStorageCorrupt: return "StorageCorrupt";
    case ErrorKind::kStorageFull: return "StorageFull";
    case ErrorKind::kStorageIncomplete: return "StorageIncomplete";
    case ErrorKind::kImage: return "ImageError";
    case ErrorKind::kStorage: return "StorageError";
    case ErrorKind::kInvariant: return "InvariantViolated";
  }
  return "MpaxosError";
}

void translate(const std::exception_ptr& pointer, void*) {
  try {
    std::rethrow_exception(pointer);
  } catch (const mpaxos::Error& error) {
    const nb::object type = nb::module_::import_("mpaxos.errors").attr(python_name(error.kind()));
    PyErr_SetString(type.ptr(), error.what());
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
  mpaxos::bind_image(m);
  mpaxos::bind_wal(m);
  mpaxos::bind_steady(m);
  mpaxos::bind_hand_over(m);
}
