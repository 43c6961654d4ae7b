// The types Model and Call of the Python module osp._engine.
//
// Tested by tests/python/test_py_engine.py.
#pragma once

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

namespace osp {

// The state of the module, which its types find.
struct PythonState {
  PyObject* error = nullptr;  // the exception osp._engine.Error(sentence, status)
  PyObject* call = nullptr;   // the type of calls
};

// Adds Error, Model and Call to the module; false with a Python exception set.
bool add_model_types(PyObject* module);

}  // namespace osp
