// The prompts of a benchmark: its records with the shots in front, read from files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/eval/prompt_encoder.h"
#include "osp/eval/task.h"

namespace osp {

// The items of a task with their shots in front of every context.
struct TaskPrompts {
  const TaskDescription* task = nullptr;
  Prompts prompts = Prompts::reference;
  std::vector<TaskItem> items;
  std::string sha256;  // of all contexts and choices in order, each ended by a zero byte
};

// Reads the task's files below `root`. With limit > 0 only the first items are taken; of MMLU,
// items at equal distances, so that every subject is included. The shots are the first records of
// their split, the same for every item. Error(damaged) with file and line for a record that is not
// of the task's layout, has a label out of range, fewer than two choices or an empty choice.
TaskPrompts load_task_prompts(const std::string& root, const TaskDescription& task, Prompts prompts,
                              int64_t limit);

// One request for all choices of an item, or one for each where the contexts differ.
std::vector<ChoiceRequest> choice_requests(const PromptEncoder& encoder, const TaskItem& item);

}  // namespace osp
