// Models for Python as calls of texts: options and requests in JSON, answers in JSON lines or
// bytes. It knows nothing of Python.
//
// Tested by tests/python/test_py_engine.py.
#pragma once

#include <memory>
#include <string>

#include "osp/cli/model_thread.h"
#include "osp/cli/opened_model.h"

namespace osp {

// A model in a thread of its own.
class ThreadedModel {
 public:
  ThreadedModel() = default;
  ~ThreadedModel();
  ThreadedModel(const ThreadedModel&) = delete;
  ThreadedModel& operator=(const ThreadedModel&) = delete;

  // Loads the model at `path`. `options`: an object with fields of OpenOptions.
  std::shared_ptr<ModelCall> open(const std::string& path, const std::string& options);
  // By `kind`, Error(usage) for another:
  //   answer    JSON lines of `osp score` → as many lines of JSON
  //   logits    one such line with "logits_of" → the fp32 numbers [tokens, vocabulary]
  //   generate  an object with options of `osp generate` → what it prints with --json, and texts
  std::shared_ptr<ModelCall> start(const std::string& kind, const std::string& request);
  // "integer engine (…), 2 threads, 16-bit head", "" for a plain model. After it was opened.
  std::string engine_note() const { return model_->engine_note(); }
  int64_t vocabulary() const { return model_->scored().store.config.vocabulary; }

 private:
  std::unique_ptr<OpenedModel> model_;
  ModelThread thread_;  // behind the model, so that it ends first
};

}  // namespace osp
