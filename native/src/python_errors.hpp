// Errors of the extension as exceptions of mpaxos.errors.
#pragma once

#include <nanobind/nanobind.h>

#include <new>
#include <typeinfo>

#include "error.hpp"

namespace mpaxos {

// The exception that Python sees instead of `error`; the second sets it as the one being raised.
nanobind::object exception_of(const Error& error);
void raise_in_python(const Error& error);

// The class of mpaxos.errors with this name.
nanobind::object error_class(const char* name);

// Runs a function that CPython calls without nanobind between; `failed` is what it returns when it
// raised.
template <typename Result, typename Run>
Result guarded(Result failed, Run run) {
  try {
    return run();
  } catch (nanobind::python_error& error) {
    error.restore();
  } catch (const Error& error) {
    raise_in_python(error);
  } catch (const std::bad_alloc&) {
    PyErr_NoMemory();
  } catch (const std::bad_cast&) {
    PyErr_SetString(PyExc_TypeError, "an argument is of another type");
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return failed;
}

}  // namespace mpaxos
