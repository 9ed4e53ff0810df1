#include "python_errors.hpp"

namespace nb = nanobind;

namespace mpaxos {
namespace {

const char* python_name(ErrorKind kind) {
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

}  // namespace

nb::object error_class(const char* name) {
  return nb::module_::import_("mpaxos.errors").attr(name);
}

nb::object exception_of(const Error& error) {
  return error_class(python_name(error.kind()))(error.what());
}

void raise_in_python(const Error& error) {
  const auto exception = exception_of(error);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
}

}  // namespace mpaxos
