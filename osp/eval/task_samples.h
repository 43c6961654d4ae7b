// The single items of benchmarks with a model's answers, one JSON line each (docs/formats.md,
// "Single items"): for people who look into mistakes, and for proofs against other programs.
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

// A file that grows while the work goes on; only its counts are in memory. Answers do not depend on
// where the work stopped, so that lines which an earlier sitting wrote are never written again.
class SampleFile {
 public:
  // Begins an empty file, or with `resume` goes on with the one that is there: a last line without
  // its end is taken away. Error(damaged) naming the line if it is not such a file.
  SampleFile(const std::string& path, bool resume);

  // Appends the items that the file does not have yet.
  void write(const std::string& model, const std::string& bits, const TaskPrompts& prompts,
             const TaskAnswers& answers);
  // Error(usage) if items of a task are absent whose answers are no longer kept.
  void check_finished(const std::string& model, const std::string& bits,
                      const TaskPrompts& prompts) const;

 private:
  void count_lines();

  std::string path_;
  std::map<std::string, size_t> counts_;  // by model, bits and task
  std::ofstream file_;
};

}  // namespace osp
