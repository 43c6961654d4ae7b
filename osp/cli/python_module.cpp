// The Python module osp._engine: models in the process (python_model.h), and main(words), which
// runs the program in this process and returns its exit status. It uses Python's limited interface,
// so one file serves every Python from 3.11 on, and the tensor library of the PyTorch that it was
// built with, which must be the one that Python has.
#include <torch/version.h>

#include <string>
#include <vector>

#include "osp/cli/osp_main.h"
#include "osp/cli/python_model.h"

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

// "2.15.0+cu130" → "2.15.0".
std::string without_build(const std::string& version) {
  return version.substr(0, version.find('+'));
}

// Refuses another PyTorch that is imported already: two versions cannot share a process.
// (osp.engine looks before this file is loaded, which another version's symbols may not even
// allow.)
bool check_torch() {
  PyObject* modules = PyImport_GetModuleDict();
  PyObject* torch = PyDict_GetItemString(modules, "torch");
  if (torch == nullptr) return true;
  PyObject* version = PyObject_GetAttrString(torch, "__version__");
  PyObject* text = version == nullptr ? nullptr : PyObject_Str(version);
  Py_XDECREF(version);
  const char* found = text == nullptr ? nullptr : PyUnicode_AsUTF8AndSize(text, nullptr);
  bool same = found == nullptr;
  PyErr_Clear();  // a torch that does not say its version is being imported
  if (found != nullptr) {
    same = without_build(found) == without_build(TORCH_VERSION);
    if (!same) {
      PyErr_Format(PyExc_ImportError,
                   "osp._engine was built for PyTorch %s, and this process has %s; install that "
                   "version, or build osp with this one",
                   TORCH_VERSION, found);
    }
  }
  Py_XDECREF(text);
  return same;
}

int fill_module(PyObject* module) {
  if (!check_torch() || !osp::add_model_types(module)) return -1;
  return PyModule_AddStringConstant(module, "torch_version", TORCH_VERSION);
}

int visit_state(PyObject* module, visitproc visit, void* arg) {
  auto* state = static_cast<osp::PythonState*>(PyModule_GetState(module));
  if (state != nullptr) {
    Py_VISIT(state->error);
    Py_VISIT(state->call);
  }
  return 0;
}

int clear_state(PyObject* module) {
  auto* state = static_cast<osp::PythonState*>(PyModule_GetState(module));
  if (state != nullptr) {
    Py_CLEAR(state->error);
    Py_CLEAR(state->call);
  }
  return 0;
}

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(fill_module)}, {0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "osp._engine",
                          "The engine of osp in this process: models, and the program.",
                          sizeof(osp::PythonState),
                          methods,
                          slots,
                          visit_state,
                          clear_state,
                          nullptr};

}  // namespace

// The name is Python's: PyInit_ and that of the module.
// NOLINTNEXTLINE(bugprone-reserved-identifier)
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__engine() {
  return PyModuleDef_Init(&definition);
}
