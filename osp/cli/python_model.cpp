#include "osp/cli/python_model.h"

#include <chrono>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>

#include "osp/cli/model_requests.h"
#include "osp/cli/osp_main.h"

namespace osp {
namespace {

// So often a thread that waits asks whether a signal has come for it.
constexpr std::chrono::milliseconds kBetweenSignals(50);

struct ModelObject {
  PyObject_HEAD;
  ThreadedModel* model;  // null after close()
};

struct CallObject {
  PyObject_HEAD;
  std::shared_ptr<ModelCall> call;
};

PythonState& state_of(PyTypeObject* type) {
  return *static_cast<PythonState*>(PyType_GetModuleState(type));
}

// Sets Error(sentence, status) for a C++ exception.
void set_error(PyObject* error_type, const std::exception& error) {
  const Failure failure = failure_of(error);
  const auto length = static_cast<Py_ssize_t>(failure.sentence.size());
  PyObject* sentence = PyUnicode_DecodeUTF8(failure.sentence.data(), length, "replace");
  if (sentence == nullptr) return;
  PyObject* arguments = Py_BuildValue("(Ni)", sentence, failure.status);
  if (arguments == nullptr) return;
  PyErr_SetObject(error_type, arguments);
  Py_DECREF(arguments);
}

// Waits without the interpreter's lock; false with an exception set if a signal's handler raised
// one.
template <class Wait>
bool wait_with_signals(Wait wait) {
  for (bool there = false;;) {
    Py_BEGIN_ALLOW_THREADS;
    there = wait(kBetweenSignals);
    Py_END_ALLOW_THREADS;
    if (there) return true;
    if (PyErr_CheckSignals() != 0) return false;
  }
}

// Waits for the end; a signal's exception cancels the call and does not wait for it to leave.
bool wait_for_end(ModelCall& call) {
  const auto ended = [&](std::chrono::milliseconds most) { return call.wait_for_end(most); };
  if (wait_with_signals(ended)) return true;
  call.cancel();
  return false;
}

// The object's memory; a type made at run time is counted by its objects.
void free_object(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
  Py_DECREF(type);
}

PyObject* new_object(PyTypeObject* type) { return PyType_GenericAlloc(type, 0); }

// ---- Call ---------------------------------------------------------------------------------------

ModelCall& call_of(PyObject* self) { return *reinterpret_cast<CallObject*>(self)->call; }

// What nobody can hear of any more need not be computed.
void free_call(PyObject* self) {
  const auto& call = reinterpret_cast<CallObject*>(self)->call;
  if (call) call->cancel();
  std::destroy_at(&reinterpret_cast<CallObject*>(self)->call);
  free_object(self);
}

PyObject* call_wait(PyObject* self, PyObject* /*unused*/) {
  ModelCall& call = call_of(self);
  if (!wait_for_end(call)) return nullptr;
  try {
    const std::string result = call.result();
    return PyBytes_FromStringAndSize(result.data(), static_cast<Py_ssize_t>(result.size()));
  } catch (const std::exception& error) {
    set_error(state_of(Py_TYPE(self)).error, error);
    return nullptr;
  }
}

PyObject* call_next_piece(PyObject* self, PyObject* /*unused*/) {
  ModelCall& call = call_of(self);
  const auto there = [&](std::chrono::milliseconds most) { return call.wait_for_piece(most); };
  if (!wait_with_signals(there)) {
    call.cancel();
    return nullptr;
  }
  const auto piece = call.take_piece();
  if (!piece) Py_RETURN_NONE;
  return PyUnicode_DecodeUTF8(piece->data(), static_cast<Py_ssize_t>(piece->size()), "replace");
}

PyObject* call_cancel(PyObject* self, PyObject* /*unused*/) {
  call_of(self).cancel();
  Py_RETURN_NONE;
}

PyMethodDef call_methods[] = {
    {"wait", call_wait, METH_NOARGS,
     "wait() -> bytes: the result, or Error. Ctrl-C cancels the call."},
    {"next_piece", call_next_piece, METH_NOARGS,
     "next_piece() -> str | None: the next piece of text; None at the end, after which wait() says "
     "how\n"
     "it ended."},
    {"cancel", call_cancel, METH_NOARGS,
     "cancel(): the call leaves at its next forward pass; the model stays usable."},
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot call_slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(free_call)},
                            {Py_tp_methods, call_methods},
                            {Py_tp_doc, const_cast<char*>("Work that a model does in its thread.")},
                            {0, nullptr}};
PyType_Spec call_spec = {"osp._engine.Call", sizeof(CallObject), 0,
                         Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, call_slots};

PyObject* new_call(const PythonState& state, std::shared_ptr<ModelCall> call) {
  PyObject* self = new_object(reinterpret_cast<PyTypeObject*>(state.call));
  if (self == nullptr) return nullptr;
  new (&reinterpret_cast<CallObject*>(self)->call) std::shared_ptr<ModelCall>(std::move(call));
  return self;
}

// ---- Model --------------------------------------------------------------------------------------

// Closes a model without the interpreter's lock: a call may have to leave first.
void close_model(ModelObject* self) {
  ThreadedModel* model = std::exchange(self->model, nullptr);
  if (model == nullptr) return;
  Py_BEGIN_ALLOW_THREADS;
  delete model;
  Py_END_ALLOW_THREADS;
}

void free_model(PyObject* self) {
  close_model(reinterpret_cast<ModelObject*>(self));
  free_object(self);
}

// Loads; null with an exception set. After a signal the loading, which cannot be left, goes on
// behind the caller's back until it is thrown away.
ThreadedModel* opened_model(const PythonState& state, const std::string& path,
                            const std::string& options) {
  auto model = std::make_unique<ThreadedModel>();
  try {
    const std::shared_ptr<ModelCall> call = model->open(path, options);
    if (!wait_for_end(*call)) {
      std::thread([model = std::move(model)]() mutable { model.reset(); }).detach();
      return nullptr;
    }
    call->result();
    return model.release();
  } catch (const std::exception& error) {
    set_error(state.error, error);
    return nullptr;
  }
}

PyObject* new_model(PyTypeObject* type, PyObject* arguments, PyObject* keywords) {
  PyObject* path = nullptr;
  const char* options = nullptr;
  static const char* names[] = {"path", "options", nullptr};
  if (PyArg_ParseTupleAndKeywords(arguments, keywords, "O&s", const_cast<char**>(names),
                                  PyUnicode_FSConverter, &path, &options) == 0) {
    return nullptr;
  }
  const std::string path_text = PyBytes_AsString(path), options_text = options;
  Py_DECREF(path);
  PyObject* self = new_object(type);
  if (self == nullptr) return nullptr;
  auto* object = reinterpret_cast<ModelObject*>(self);
  object->model = opened_model(state_of(type), path_text, options_text);
  if (object->model == nullptr) {
    Py_DECREF(self);
    return nullptr;
  }
  return self;
}

// The open model; null with an exception set if it was closed.
ThreadedModel* model_of(PyObject* self) {
  ThreadedModel* model = reinterpret_cast<ModelObject*>(self)->model;
  if (model == nullptr) PyErr_SetString(PyExc_RuntimeError, "the model was closed; load it again");
  return model;
}

PyObject* model_start(PyObject* self, PyObject* arguments) {
  const char* kind = nullptr;
  const char* request = nullptr;
  Py_ssize_t length = 0;
  if (PyArg_ParseTuple(arguments, "ss#", &kind, &request, &length) == 0) return nullptr;
  ThreadedModel* model = model_of(self);
  if (model == nullptr) return nullptr;
  const PythonState& state = state_of(Py_TYPE(self));
  try {
    return new_call(state, model->start(kind, {request, static_cast<size_t>(length)}));
  } catch (const std::exception& error) {
    set_error(state.error, error);
    return nullptr;
  }
}

PyObject* model_close(PyObject* self, PyObject* /*unused*/) {
  close_model(reinterpret_cast<ModelObject*>(self));
  Py_RETURN_NONE;
}

PyObject* model_engine(PyObject* self, PyObject* /*unused*/) {
  ThreadedModel* model = model_of(self);
  return model == nullptr ? nullptr : PyUnicode_FromString(model->engine_note().c_str());
}

PyObject* model_vocabulary(PyObject* self, PyObject* /*unused*/) {
  ThreadedModel* model = model_of(self);
  return model == nullptr ? nullptr : PyLong_FromLongLong(model->vocabulary());
}

PyMethodDef model_methods[] = {
    {"start", model_start, METH_VARARGS,
     "start(kind, request) -> Call. kind: answer (JSON lines of `osp score`; gives as many "
     "lines),\n"
     "logits (one line with logits_of; gives fp32 numbers), generate (options of `osp generate` "
     "as\n"
     "JSON; gives pieces of text and the object of --json)."},
    {"close", model_close, METH_NOARGS, "close(): cancels what runs and frees the weights."},
    {"engine", model_engine, METH_NOARGS, "engine() -> str: what computes, '' for a plain model."},
    {"vocabulary", model_vocabulary, METH_NOARGS,
     "vocabulary() -> int: numbers in a row of logits."},
    {nullptr, nullptr, 0, nullptr}};

PyType_Slot model_slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(new_model)},
    {Py_tp_dealloc, reinterpret_cast<void*>(free_model)},
    {Py_tp_methods, model_methods},
    {Py_tp_doc,
     const_cast<char*>("Model(path, options): a model loaded into this process; options as JSON.")},
    {0, nullptr}};
PyType_Spec model_spec = {"osp._engine.Model", sizeof(ModelObject), 0, Py_TPFLAGS_DEFAULT,
                          model_slots};

}  // namespace

bool add_model_types(PyObject* module) {
  auto* state = static_cast<PythonState*>(PyModule_GetState(module));
  state->error = PyErr_NewExceptionWithDoc(
      "osp._engine.Error",
      "Error(sentence, status): what osp refuses, and the program's exit status.", nullptr,
      nullptr);
  if (state->error == nullptr) return false;
  state->call = PyType_FromModuleAndSpec(module, &call_spec, nullptr);
  if (state->call == nullptr) return false;
  PyObject* model = PyType_FromModuleAndSpec(module, &model_spec, nullptr);
  if (model == nullptr) return false;
  const bool added = PyModule_AddObjectRef(module, "Error", state->error) == 0 &&
                     PyModule_AddObjectRef(module, "Call", state->call) == 0 &&
                     PyModule_AddObjectRef(module, "Model", model) == 0;
  Py_DECREF(model);
  return added;
}

}  // namespace osp
