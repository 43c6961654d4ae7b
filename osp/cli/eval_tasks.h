// The part of `osp eval` that runs benchmarks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace osp {

struct EvalTasksArguments {
  std::vector<std::string> models;
  std::string tasks, bits, data, prompts, out, resume, table, samples;
  bool bits_given = false;  // other than the default
  int64_t limit = 0;
  bool quiet = false, json = false;
};

// Runs the tasks on all models at all widths and prints; the exit status.
int run_eval_tasks(const EvalTasksArguments& arguments);

}  // namespace osp
