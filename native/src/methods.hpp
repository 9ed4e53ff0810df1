// The methods of a machine in Python, called with requests as bytes: decode the arguments, run,
// encode the result, without a Python function between them.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace mpaxos {

// Those of one kind, commands or queries. Calls come from one thread, but for running().
class Methods {
 public:
  // `machine`: their self. `decode`: makes of a request an object whose type is one of the keys of
  // `methods`, with the arguments as attributes a0, a1, ...; the values are methods as
  // mpaxos.machine.declaration.Method. What it raises is ignored and `explain` called, which raises
  // what the client is told, or returns method and arguments. `unfit(method, result, error)` raises
  // what the client is told of a result that cannot be encoded.
  Methods(nanobind::object machine, nanobind::object decode, const nanobind::dict& methods,
          nanobind::object explain, nanobind::object unfit);

  // The result as bytes. Raises what the method raises.
  nanobind::object run(nanobind::handle request);

  // (name, when it began: monotonic clock, nanoseconds) of the method that runs, or None. Any
  // thread that has the interpreter.
  nanobind::object running() const;

 private:
  struct Method {
    nanobind::object object;
    nanobind::object name;
    nanobind::object function;
    nanobind::object exact;  // results of exactly this type are encoded by `packer` alone
    nanobind::object packer;
    nanobind::object encode;
    std::size_t parameters;
  };
  class Run;

  static Method method_of(nanobind::handle object);
  nanobind::object run_explained(nanobind::handle request);
  nanobind::object call(const Method& method, nanobind::handle arguments);
  nanobind::object encoded(const Method& method, const nanobind::object& result);

  nanobind::object machine_;
  nanobind::object decode_;
  nanobind::object explain_;
  nanobind::object unfit_;
  std::unordered_map<PyTypeObject*, Method> methods_;  // `types_` keeps the keys
  nanobind::dict types_;
  std::vector<nanobind::object> fields_;
  const Method* running_ = nullptr;
  std::int64_t started_ = 0;
};

}  // namespace mpaxos
