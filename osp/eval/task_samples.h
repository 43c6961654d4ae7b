// The single items of benchmarks with a model's answers, one JSON line each (docs/formats.md,
// "Single items"), for people who look into mistakes and for comparison with other programs.
// Tested by tests/python/test_eval_tasks.py.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <string>

#include "osp/eval/task_answers.h"

namespace osp {

// Item `index` of a task and the answer to it.
Json sample_json(const std::string& model, const std::string& bits, const TaskPrompts& prompts,
                 const TaskAnswers& answers, size_t index);

// A file that grows during the evaluation; only its counts are in memory. Answers do not depend on
// where the work stopped, so that lines of an earlier run are never written again.
class SampleFile {
 public:
  // Begins an empty file, or with `resume` continues an existing one, whose last line is removed if
  // it has no end. Error(damaged) naming the line if it is not such a file.
  SampleFile(const std::string& path, bool resume);

  // Appends the items that are not in the file yet.
  void write(const std::string& model, const std::string& bits, const TaskPrompts& prompts,
             const TaskAnswers& answers);
  // Error(usage) if the file lacks items of a finished task, whose answers are no longer kept.
  void check_finished(const std::string& model, const std::string& bits,
                      const TaskPrompts& prompts) const;

 private:
  void count_lines();

  std::string path_;
  std::map<std::string, size_t> counts_;  // by model, bits and task
  std::ofstream file_;
};

}  // namespace osp
