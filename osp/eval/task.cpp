#include "osp/eval/task.h"

#include <algorithm>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr std::string_view kEveryTask[] = {"paper", "all"};

std::vector<std::string> task_names(const std::string& list) {
  std::vector<std::string> names;
  for (size_t begin = 0; begin <= list.size();) {
    const size_t end = std::min(list.find(',', begin), list.size());
    names.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return names;
}

bool means_every_task(const std::string& name) {
  return std::find(std::begin(kEveryTask), std::end(kEveryTask), name) != std::end(kEveryTask);
}

const TaskDescription* find_task(const std::string& name) {
  for (const TaskDescription& task : benchmark_tasks()) {
    if (task.name == name) return &task;
  }
  return nullptr;
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
  const auto add = [&](const TaskDescription* task) {
    if (std::find(tasks.begin(), tasks.end(), task) == tasks.end()) tasks.push_back(task);
  };
  for (const std::string& name : task_names(names)) {
    if (means_every_task(name)) {
      for (const TaskDescription& task : benchmark_tasks()) add(&task);
    } else if (const TaskDescription* task = find_task(name)) {
      add(task);
    } else {
      std::string known;
      for (const TaskDescription& each : benchmark_tasks()) known += each.name + ", ";
      fail(ErrorCode::usage,
           "--tasks {}: unknown task \"{}\"; osp eval knows {}paper (all of "
           "these) and, by itself, perplexity",
           names, name, known);
    }
  }
  return tasks;
}

bool names_benchmark(const std::string& names) {
  const auto list = task_names(names);
  return std::any_of(list.begin(), list.end(), [](const std::string& name) {
    return means_every_task(name) || find_task(name) != nullptr;
  });
}

}  // namespace osp
