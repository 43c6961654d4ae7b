// The results of benchmarks over models, widths and tasks: one JSON document (docs/formats.md, "osp
// eval --json with benchmarks"), kept in a file while the work goes on.
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/eval/task_answers.h"

namespace osp {

// What is the same for the whole document.
struct TaskResultsHeader {
  std::string data;
  std::string prompts;  // "reference"
  int64_t limit = 0;
};

class TaskResults {
 public:
  // Writes to `path` after every change ("": nowhere).
  TaskResults(const TaskResultsHeader& header, const std::string& path);
  // Goes on with the document at `path`. Error(usage) if its prompts or limit are others or another
  // version of the program made it, Error(damaged) if it is not such a document.
  static TaskResults resume(const TaskResultsHeader& header, const std::string& path);

  // Names a model; `tokens` it was trained on, 0 if unknown. Error(usage) if the document has it
  // with another number of parameters.
  void add_model(const std::string& model, int64_t parameters, int64_t tokens);
  // Whether the task is finished. Error(usage) if it was finished with other prompts.
  bool finished(const std::string& model, const std::string& bits, const TaskPrompts& prompts);
  // What is answered so far of an unfinished task, and keeping it.
  TaskAnswers answers(const std::string& model, const std::string& bits,
                      const TaskPrompts& prompts) const;
  void keep(const std::string& model, const std::string& bits, const TaskPrompts& prompts,
            const TaskAnswers& answers);
  // Puts the result in the place of the answers.
  void finish(const std::string& model, const std::string& bits, const TaskPrompts& prompts,
              const TaskAnswers& answers);

  const Json& json() const { return json_; }

 private:
  Json& widths(const std::string& model, const std::string& bits);
  void save() const;

  std::string path_;
  Json json_;
};

// All results for people, one line per task.
std::string results_text(const Json& document);
// The paper's table, one row per model: parameters, tokens, every task at the first of its widths,
// the average at each width; in per cent, "–" where a number is not there.
std::string results_markdown(const Json& document);
std::string results_csv(const Json& document);

}  // namespace osp
