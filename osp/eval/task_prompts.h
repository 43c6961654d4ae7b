// From a benchmark's files to prompts, and from prompts to token ids.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/eval/request_scorer.h"
#include "osp/eval/task.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

// The items of a task with their shots in front of every context.
struct TaskPrompts {
  const TaskDescription* task = nullptr;
  Prompts prompts = Prompts::reference;
  std::vector<TaskItem> items;
  std::string sha256;  // of all contexts and choices in order, each ended by a zero byte
};

// Reads the task's files below `root`. limit > 0: its first items, of MMLU items at equal
// distances, so that all subjects are met. The shots are the first records of the split they come
// from, the same for every item. Error(damaged) with file and line for a record that is not of the
// task's layout, has a label out of range, less than two choices or an empty one.
TaskPrompts load_task_prompts(const std::string& root, const TaskDescription& task, Prompts prompts,
                              int64_t limit);

// Token ids of prompts for one model.
//
// A pair of context and choice is encoded as lm-eval does it: white space at the end of the context
// moves to the choice; the context is encoded alone, context and choice as one text, and the choice
// is what the second has beyond the length of the first. Special tokens that the tokenizer puts in
// front of a text (<s>) stand in front of the context, those at its end are left out. An empty
// context becomes these, or the end-of-document token.
class PromptEncoder {
 public:
  // Error(damaged), when a text is encoded, if an id is not below `vocabulary`.
  PromptEncoder(const Tokenizer& tokenizer, int64_t vocabulary);

  // One request for all choices, or one for each where the contexts differ.
  std::vector<ChoiceRequest> choices(const TaskItem& item) const;
  std::vector<int32_t> context(const std::string& text) const;

 private:
  std::vector<int32_t> encode(const std::string& text) const;
  void append_choice(ChoiceRequest& request, const std::string& context,
                     const std::string& choice) const;

  const Tokenizer& tokenizer_;
  int64_t vocabulary_;
  std::vector<int32_t> front_;  // special tokens at the beginning of a text
};

}  // namespace osp
