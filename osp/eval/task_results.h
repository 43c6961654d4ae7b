// The results of benchmarks over models, widths and tasks: one JSON document (docs/formats.md, "osp
// eval --json with benchmarks"), saved after every change so that a stopped run can be resumed.
// Tested by tests/python/test_eval_tasks.py.
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/eval/task_answers.h"

namespace osp {

// Settings of the whole document.
struct TaskResultsHeader {
  std::string data;
  std::string prompts;  // "reference"
  int64_t limit = 0;
  std::string precision = "fp32";
};

class TaskResults {
 public:
  // Writes to `path` after every change ("": nowhere).
  TaskResults(const TaskResultsHeader& header, const std::string& path);
  // Continues the document at `path`. Error(usage) if its prompts, limit, precision or program
  // version differ, Error(damaged) if it is not such a document.
  static TaskResults resume(const TaskResultsHeader& header, const std::string& path);

  // Adds a model; `tokens` it was trained on, 0 if unknown; `rounded_before`: how its weights had
  // been rounded before, "" if they had not. Error(usage) if the document has it with another
  // number of parameters.
  void add_model(const std::string& model, int64_t parameters, int64_t tokens,
                 const std::string& rounded_before = "");
  // True if the task is finished. Error(usage) if it was finished with other prompts.
  bool finished(const std::string& model, const std::string& bits, const TaskPrompts& prompts);
  // The answers so far to an unfinished task, and saving them.
  TaskAnswers answers(const std::string& model, const std::string& bits,
                      const TaskPrompts& prompts) const;
  void keep(const std::string& model, const std::string& bits, const TaskPrompts& prompts,
            const TaskAnswers& answers);
  // Replaces the answers by the result.
  void finish(const std::string& model, const std::string& bits, const TaskPrompts& prompts,
              const TaskAnswers& answers);

  const Json& json() const { return json_; }

 private:
  Json& widths(const std::string& model, const std::string& bits);
  void save() const;

  std::string path_;
  Json json_;
};

}  // namespace osp
