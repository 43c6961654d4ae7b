// The Python module osp._engine: main(words) runs the program in this process and returns its exit
// status. It uses Python's limited interface, so one file serves every Python from 3.11 on.
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <string>
#include <vector>

#include "osp/cli/osp_main.h"

namespace {

// The bytes of a word as the system gave them; false with a Python exception set.
bool append_word(PyObject* word, std::vector<std::string>& words) {
  PyObject* bytes = nullptr;
  if (PyUnicode_FSConverter(word, &bytes) == 0) return false;
  words.emplace_back(PyBytes_AsString(bytes));
  Py_DECREF(bytes);
  return true;
}

PyObject* run_main(PyObject* /*module*/, PyObject* list) {
  // Copy the words, the program's name first.
  std::vector<std::string> words;
  if (!PyList_Check(list)) {
    PyErr_SetString(PyExc_TypeError, "main(words): a list of the program's name and its words");
    return nullptr;
  }
  for (Py_ssize_t i = 0; i < PyList_Size(list); ++i) {
    if (!append_word(PyList_GetItem(list, i), words)) return nullptr;
  }
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);

  // Run without the interpreter's lock: backends of torch.distributed have Python threads.
  int status = 0;
  Py_BEGIN_ALLOW_THREADS;
  status = osp::osp_main(static_cast<int>(words.size()), pointers.data());
  Py_END_ALLOW_THREADS;
  return PyLong_FromLong(status);
}

PyMethodDef methods[] = {
    {"main", run_main, METH_O,
     "main(words: list[str]) -> int: runs the program osp with these words, its name first, and\n"
     "returns its exit status. For a process of its own: it takes over stderr, stdout and "
     "signals."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "osp._engine",
                          "The program osp.",
                          0,
                          methods,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace

// The name is Python's: PyInit_ and that of the module.
// NOLINTNEXTLINE(bugprone-reserved-identifier)
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__engine() {
  return PyModuleDef_Init(&definition);
}
