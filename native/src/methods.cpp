#include "methods.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "error.hpp"

namespace nb = nanobind;

namespace mpaxos {

// Says what runs, for as long as it lives.
class Methods::Run {
 public:
  Run(Methods& methods, const Method& method) : methods_(methods) {
    methods_.started_ = std::chrono::nanoseconds(
                            std::chrono::steady_clock::now().time_since_epoch()).count();
    methods_.running_ = &method;
  }
  ~Run() { methods_.running_ = nullptr; }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

 private:
  Methods& methods_;
};

Methods::Methods(nb::object machine, nb::object decode, const nb::dict& methods, nb::object explain,
                 nb::object unfit)
    : machine_(std::move(machine)),
      decode_(std::move(decode)),
      explain_(std::move(explain)),
      unfit_(std::move(unfit)),
      types_(methods) {
  std::size_t most = 0;
  for (const auto& [type, object] : methods) {
    auto method = method_of(object);
    most = std::max(most, method.parameters);
    methods_.emplace(reinterpret_cast<PyTypeObject*>(type.ptr()), std::move(method));
  }
  for (std::size_t i = 0; i < most; ++i) {
    const auto name = "a" + std::to_string(i);
    fields_.push_back(nb::steal(nb::detail::raise_if_null(
        PyUnicode_InternFromString(name.c_str()))));
  }
}

Methods::Method Methods::method_of(nb::handle object) {
  const nb::object result = object.attr("result");
  return {.object = nb::borrow(object),
          .name = object.attr("name"),
          .function = object.attr("function"),
          .exact = result.attr("exact"),
          .packer = result.attr("packer"),
          .encode = result.attr("encode"),
          .parameters = nb::len(nb::object(object.attr("parameters")))};
}

nb::object Methods::run(nb::handle request) {
  if (decode_.is_none()) return run_explained(request);
  const auto arguments = nb::steal(PyObject_CallOneArg(decode_.ptr(), request.ptr()));
  if (!arguments.is_valid()) {
    PyErr_Clear();
    return run_explained(request);
  }
  const auto found = methods_.find(Py_TYPE(arguments.ptr()));
  invariant(found != methods_.end(), "a request was decoded as no method's arguments");
  const auto& method = found->second;
  const Run run(*this, method);
  return encoded(method, call(method, arguments));
}

nb::object Methods::run_explained(nb::handle request) {
  const auto explained = nb::cast<nb::tuple>(explain_(request));
  const auto method = method_of(explained[0]);
  const Run run(*this, method);
  return encoded(method, method.function(machine_, *nb::cast<nb::tuple>(explained[1])));
}

nb::object Methods::call(const Method& method, nb::handle arguments) {
  constexpr std::size_t kFew = 8;
  nb::object few[kFew];
  std::vector<nb::object> many(method.parameters > kFew ? method.parameters : 0);
  nb::object* values = many.empty() ? few : many.data();
  PyObject* few_stack[kFew + 1];
  std::vector<PyObject*> many_stack(many.empty() ? 0 : many.size() + 1);
  PyObject** stack = many.empty() ? few_stack : many_stack.data();
  stack[0] = machine_.ptr();
  for (std::size_t i = 0; i < method.parameters; ++i) {
    values[i] = nb::steal(nb::detail::raise_if_null(
        PyObject_GetAttr(arguments.ptr(), fields_[i].ptr())));
    stack[i + 1] = values[i].ptr();
  }
  return nb::steal(nb::detail::raise_if_null(
      PyObject_Vectorcall(method.function.ptr(), stack, method.parameters + 1, nullptr)));
}

nb::object Methods::encoded(const Method& method, const nb::object& result) {
  const bool exact = reinterpret_cast<PyObject*>(Py_TYPE(result.ptr())) == method.exact.ptr();
  const auto& encode = exact ? method.packer : method.encode;
  auto bytes = nb::steal(PyObject_CallOneArg(encode.ptr(), result.ptr()));
  if (!bytes.is_valid()) {
    nb::python_error error;
    unfit_(method.object, result, nb::handle(error.value()));
    invariant(false, "a result that cannot be encoded is refused");
  }
  return bytes;
}

nb::object Methods::running() const {
  if (running_ == nullptr) return nb::none();
  return nb::make_tuple(running_->name, started_);
}

}  // namespace mpaxos
