#include "osp/eval/task.h"

#include <algorithm>

#include "osp/base/error.h"
#include "osp/eval/task_table.h"

namespace osp {
namespace {

std::vector<std::string> task_names(const std::string& list) {
  std::vector<std::string> names;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    names.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

// The tasks that a name stands for: one, the paper's or all; none for an unknown name.
std::vector<const TaskDescription*> tasks_named(const std::string& name) {
  std::vector<const TaskDescription*> tasks;
  for (const TaskDescription& task : benchmark_tasks()) {
    const bool paper = name == "paper" && task.paper_weight > 0;
    if (name == task.name || name == "all" || paper) tasks.push_back(&task);
  }
  return tasks;
}

}  // namespace

Prompts parse_prompts(std::string_view name) {
  for (const Prompts prompts : {Prompts::reference, Prompts::lm_eval}) {
    if (name == prompts_name(prompts)) return prompts;
  }
  fail(ErrorCode::usage, "--prompts {}: unknown; expected reference or lm-eval", name);
}

std::string_view prompts_name(Prompts prompts) {
  return prompts == Prompts::reference ? "reference" : "lm-eval";
}

std::vector<const TaskDescription*> parse_tasks(const std::string& names) {
  std::vector<const TaskDescription*> tasks;
  for (const std::string& name : task_names(names)) {
    const auto named = tasks_named(name);
    for (const TaskDescription* task : named) {
      if (std::find(tasks.begin(), tasks.end(), task) == tasks.end()) tasks.push_back(task);
    }
    if (named.empty()) {
      std::string known;
      for (const TaskDescription& each : benchmark_tasks()) known += each.name + ", ";
      fail(ErrorCode::usage,
           "--tasks {}: unknown task \"{}\"; osp eval knows {}paper (all of the paper's), all, "
           "and, by themselves, perplexity and wikitext2",
           names, name, known);
    }
  }
  return tasks;
}

bool names_benchmark(const std::string& names) {
  const auto list = task_names(names);
  return std::any_of(list.begin(), list.end(),
                     [](const std::string& name) { return !tasks_named(name).empty(); });
}

}  // namespace osp
