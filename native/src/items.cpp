#include "items.hpp"

#include <bit>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "error.hpp"
#include "overlay.hpp"
#include "python_bytes.hpp"
#include "python_errors.hpp"

namespace nb = nanobind;

namespace mpaxos {
namespace {

// Keys of these types need no call of the codec to be encoded.
enum class Keys : std::uint8_t { kText, kBytes, kInteger, kOther };

struct Codecs {
  Keys keys = Keys::kOther;
  nb::object encode_key;
  nb::object encode_value;
  nb::object decode_value;
  nb::object exact;   // values of exactly this type are encoded by `packer`
  nb::object packer;  // None: values are bytes, and their own encoding
};

struct Items {
  PyObject_HEAD
  PyObject* keeper;  // the Table as Python knows it; null before __init__
  Table* table;
  Codecs* codecs;
};

Items* of(PyObject* self) { return reinterpret_cast<Items*>(self); }

Table& table_of(PyObject* self) {
  invariant(of(self)->table != nullptr, "a container is used before its __init__");
  return *of(self)->table;
}

Text bytes_of(nb::object data) {
  if (!PyBytes_Check(data.ptr())) {
    PyErr_SetString(PyExc_TypeError, "a codec must return bytes");
    throw nb::python_error();
  }
  const std::string_view view(PyBytes_AS_STRING(data.ptr()),
                              static_cast<std::size_t>(PyBytes_GET_SIZE(data.ptr())));
  return {view, std::move(data)};
}

nb::object called(const nb::object& function, PyObject* argument) {
  return nb::steal(nb::detail::raise_if_null(PyObject_CallOneArg(function.ptr(), argument)));
}

// The order of the bytes is the order of the numbers (mpaxos.machine.codec).
nb::object encoded(long long number) {
  auto bits = static_cast<std::uint64_t>(number) ^ (std::uint64_t{1} << 63);
  if constexpr (std::endian::native == std::endian::little) bits = __builtin_bswap64(bits);
  return nb::bytes(&bits, sizeof bits);
}

Text key_of(const Codecs& codecs, PyObject* key) {
  if (codecs.keys == Keys::kText && PyUnicode_CheckExact(key)) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(key, &size);
    if (data == nullptr) throw nb::python_error();
    return {{data, static_cast<std::size_t>(size)}, nb::borrow(key)};
  }
  if (codecs.keys == Keys::kBytes && PyBytes_CheckExact(key)) return bytes_of(nb::borrow(key));
  if (codecs.keys == Keys::kInteger && PyLong_CheckExact(key)) {
    int overflow = 0;
    const auto number = PyLong_AsLongLongAndOverflow(key, &overflow);
    if (overflow == 0) return bytes_of(encoded(number));
  }
  return bytes_of(called(codecs.encode_key, key));
}

Text value_of(const Codecs& codecs, PyObject* value) {
  if (reinterpret_cast<PyObject*>(Py_TYPE(value)) != codecs.exact.ptr()) {
    return bytes_of(called(codecs.encode_value, value));
  }
  if (codecs.packer.is_none()) return bytes_of(nb::borrow(value));
  return bytes_of(called(codecs.packer, value));
}

nb::object object_of(const Codecs& codecs, const Text& data) {
  // What was written in this slot is there as an object already.
  const bool whole = data.owner.is_valid() && PyBytes_CheckExact(data.owner.ptr());
  nb::object bytes = whole ? data.owner : as_bytes(data.bytes);
  return codecs.packer.is_none() ? bytes : called(codecs.decode_value, bytes.ptr());
}

// ---------------------------------------------------------------- the operations

PyObject* get_item(PyObject* self, PyObject* key) {
  return guarded<PyObject*>(nullptr, [&]() -> PyObject* {
    auto& table = table_of(self);
    const auto& codecs = *of(self)->codecs;
    const auto found = table.get(key_of(codecs, key).bytes);
    if (!found) {
      PyErr_SetObject(PyExc_KeyError, key);
      return nullptr;
    }
    return object_of(codecs, *found).release().ptr();
  });
}

int set_item(PyObject* self, PyObject* key, PyObject* value) {
  return guarded(-1, [&] {
    auto& table = table_of(self);
    const auto& codecs = *of(self)->codecs;
    if (value != nullptr) {
      auto text = key_of(codecs, key);
      table.put(std::move(text), value_of(codecs, value));
      return 0;
    }
    if (table.erase(key_of(codecs, key))) return 0;
    PyErr_SetObject(PyExc_KeyError, key);
    return -1;
  });
}

int contains(PyObject* self, PyObject* key) {
  return guarded(-1, [&] {
    return table_of(self).get(key_of(*of(self)->codecs, key).bytes) ? 1 : 0;
  });
}

Py_ssize_t length(PyObject* self) {
  return guarded<Py_ssize_t>(-1,
                             [&] { return static_cast<Py_ssize_t>(table_of(self).size()); });
}

PyObject* get(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
  return guarded<PyObject*>(nullptr, [&]() -> PyObject* {
    const bool named = names != nullptr && PyTuple_GET_SIZE(names) == 1 && count == 1 &&
                       PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "default") == 0;
    if ((names != nullptr && !named) || count < 1 || count > 2) {
      PyErr_SetString(PyExc_TypeError, "get() takes a key and, if you like, a default");
      return nullptr;
    }
    auto& table = table_of(self);
    const auto& codecs = *of(self)->codecs;
    const auto found = table.get(key_of(codecs, arguments[0]).bytes);
    if (found) return object_of(codecs, *found).release().ptr();
    return Py_NewRef(count == 2 || named ? arguments[1] : Py_None);
  });
}

// ---------------------------------------------------------------- the class

int init(PyObject* self, PyObject* arguments, PyObject* names) {
  PyObject *table = nullptr, *keys = nullptr, *values = nullptr;
  static const char* kNames[] = {"table", "keys", "values", nullptr};
  if (PyArg_ParseTupleAndKeywords(arguments, names, "OOO", const_cast<char**>(kNames), &table,
                                  &keys, &values) == 0) {
    return -1;
  }
  return guarded(-1, [&] {
    invariant(of(self)->table == nullptr, "a container is made once");
    const nb::handle key_codec(keys), value_codec(values);
    auto codecs = std::make_unique<Codecs>();
    const nb::object text = key_codec.attr("text");
    const auto is = [&](const char* name) {
      return PyUnicode_CompareWithASCIIString(text.ptr(), name) == 0;
    };
    codecs->keys = is("str")     ? Keys::kText
                   : is("bytes") ? Keys::kBytes
                   : is("int")   ? Keys::kInteger
                                 : Keys::kOther;
    codecs->encode_key = key_codec.attr("encode");
    codecs->encode_value = value_codec.attr("encode");
    codecs->decode_value = value_codec.attr("decode");
    codecs->exact = value_codec.attr("exact");
    codecs->packer = value_codec.attr("packer");
    of(self)->table = &nb::cast<Table&>(nb::handle(table));
    of(self)->keeper = Py_NewRef(table);
    of(self)->codecs = codecs.release();
    return 0;
  });
}

int traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(of(self)->keeper);
  if (const auto* codecs = of(self)->codecs) {
    for (const auto* object : {&codecs->encode_key, &codecs->encode_value, &codecs->decode_value,
                               &codecs->exact, &codecs->packer}) {
      Py_VISIT(object->ptr());
    }
  }
  return 0;
}

int clear(PyObject* self) {
  of(self)->table = nullptr;
  Py_CLEAR(of(self)->keeper);
  delete std::exchange(of(self)->codecs, nullptr);
  return 0;
}

void dealloc(PyObject* self) {
  PyObject_GC_UnTrack(self);
  clear(self);
  auto* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

template <typename Function>
void* slot(Function function) {
  return reinterpret_cast<void*>(function);
}

}  // namespace

nb::object items_class() {
  static PyMethodDef methods[] = {
      {"get", reinterpret_cast<PyCFunction>(slot(&get)), METH_FASTCALL | METH_KEYWORDS, nullptr},
      {"__class_getitem__", &Py_GenericAlias, METH_O | METH_CLASS, nullptr},
      {nullptr, nullptr, 0, nullptr}};
  PyType_Slot slots[] = {{Py_tp_new, slot(&PyType_GenericNew)},
                         {Py_tp_init, slot(&init)},
                         {Py_tp_traverse, slot(&traverse)},
                         {Py_tp_clear, slot(&clear)},
                         {Py_tp_dealloc, slot(&dealloc)},
                         {Py_mp_subscript, slot(&get_item)},
                         {Py_mp_ass_subscript, slot(&set_item)},
                         {Py_mp_length, slot(&length)},
                         {Py_sq_contains, slot(&contains)},
                         {Py_tp_methods, methods},
                         {0, nullptr}};
  PyType_Spec spec = {"mpaxos._native.Items", sizeof(Items), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots};
  return nb::steal(nb::detail::raise_if_null(PyType_FromSpec(&spec)));
}

}  // namespace mpaxos
