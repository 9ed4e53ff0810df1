/* mpaxos._compiled: the modules that mypyc has compiled, all in this library.
 *
 * mypyc would have one small library beside each module to load it; then an old one would hide a
 * source that was edited. Here a module is only loaded when mpaxos.compiled asks for it, which
 * compares the sources first. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdio.h>

struct source {
  const char *module;
  const char *hash;
  Py_ssize_t size;
};

static const struct source SOURCES[] = {
#include "sources.h"
};
#define COUNT (sizeof(SOURCES) / sizeof(SOURCES[0]))

PyMODINIT_FUNC PyInit__compiled__mypyc(void); /* in the C that mypyc writes */

static PyObject *group = NULL;

static PyObject *load(PyObject *self, PyObject *argument) {
  (void)self;
  PyObject *parts = NULL, *attribute = NULL, *capsule = NULL, *module = NULL;
  char label[256];
  const char *name = PyUnicode_Check(argument) ? PyUnicode_AsUTF8(argument) : NULL;
  if (name == NULL) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "load() takes the name of a module");
    return NULL;
  }
  /* mypyc writes ___ for a dot, and keeps the functions that make modules in capsules */
  PyObject *dot = PyUnicode_FromString("."), *low = PyUnicode_FromString("___");
  if (dot != NULL && low != NULL) parts = PyUnicode_Replace(argument, dot, low, -1);
  Py_XDECREF(dot);
  Py_XDECREF(low);
  if (parts == NULL) return NULL;
  attribute = PyUnicode_FromFormat("init_%U", parts);
  Py_DECREF(parts);
  if (attribute == NULL) return NULL;
  capsule = PyObject_GetAttr(group, attribute);
  if (capsule != NULL) {
    snprintf(label, sizeof label, "mpaxos._compiled__mypyc.%s", PyUnicode_AsUTF8(attribute));
    PyObject *(*make)(void) = (PyObject * (*)(void)) PyCapsule_GetPointer(capsule, label);
    if (make != NULL) module = make();
  } else {
    PyErr_Format(PyExc_ImportError, "%s is not among the compiled modules", name);
  }
  Py_DECREF(attribute);
  Py_XDECREF(capsule);
  return module;
}

static PyMethodDef METHODS[] = {
    {"load", load, METH_O, "The compiled module of that name, made at the first call."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef DEFINITION = {
    PyModuleDef_HEAD_INIT,
    .m_name = "mpaxos._compiled",
    .m_doc = "The modules that mypyc has compiled; see mpaxos.compiled.",
    .m_size = -1,
    .m_methods = METHODS,
};

PyMODINIT_FUNC PyInit__compiled(void) {
  PyObject *sources = NULL, *module = PyModule_Create(&DEFINITION);
  if (module == NULL) return NULL;
  sources = PyDict_New();
  if (sources == NULL) goto failed;
  for (size_t i = 0; i < COUNT; i++) {
    PyObject *hash = PyBytes_FromStringAndSize(SOURCES[i].hash, SOURCES[i].size);
    if (hash == NULL || PyDict_SetItemString(sources, SOURCES[i].module, hash) < 0) {
      Py_XDECREF(hash);
      goto failed;
    }
    Py_DECREF(hash);
  }
  if (PyModule_AddObjectRef(module, "SOURCES", sources) < 0) goto failed;
  group = PyInit__compiled__mypyc();
  if (group == NULL || PyModule_AddObjectRef(module, "GROUP", group) < 0) goto failed;
  Py_DECREF(sources);
  return module;
failed:
  Py_XDECREF(sources);
  Py_DECREF(module);
  return NULL;
}
