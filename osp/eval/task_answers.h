// A model's answers to a task, and their scores.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/eval/task_prompts.h"

namespace osp {

// A model's answers to the first items of a task.
struct TaskAnswers {
  struct Item {
    std::vector<double> log_likelihoods;  // tasks of choices: one per choice, nats
    std::string text;                     // generation: the generated text
  };
  std::vector<Item> items;
  int64_t cut = 0;     // prompts that lost tokens on the left to fit the model's context
  double seconds = 0;  // also of runs that were stopped and resumed
};

struct TaskRunOptions {
  Tap* tap = nullptr;
  std::function<void(int64_t done, int64_t total)> progress = {};  // items
  // Called after every chunk of items (256, or 32 of generation).
  std::function<void(const TaskAnswers&)> on_chunk = {};
  int64_t batch_tokens = 8192;
  std::vector<int64_t> end_tokens = {};  // as in ScoreOptions
};

// Answers the items after those of `answers`, chunk by chunk. Chunks begin at fixed items, so that
// a resumed task gives the same numbers. Error(interrupted) when a stop is requested; the finished
// chunks are then in `answers`.
void answer_task(const ParameterStore& store, const Tokenizer& tokenizer,
                 const TaskPrompts& prompts, const TaskRunOptions& options, TaskAnswers& answers);

// The marks of an answer, right or wrong by each of the task's metrics. Tasks of choices: the
// likeliest choice is right, by log-likelihood (acc), per character (acc_norm) and per byte
// (acc_bytes). Generation: a reference equals the text.
struct ItemMarks {
  bool acc = false, acc_norm = false, acc_bytes = false;
  bool exact_match = false;
};
ItemMarks marks_of(const TaskDescription& task, Prompts prompts, const TaskItem& item,
                   const TaskAnswers::Item& answer);

// The result of a task (docs/formats.md): means of the marks with their standard errors s / √n, s²
// over n − 1. Characters and bytes do not count the choice's leading space. Items with subjects
// (MMLU) are also counted by subject; with the reference's prompts their score is the unweighted
// mean of the subjects ("mean_over"), as the reference averages one task per subject.
Json task_result(const TaskPrompts& prompts, const TaskAnswers& answers);

// Mean of values and its standard error (0 for fewer than two): {"value", "standard_error"}.
Json mean_json(const std::vector<double>& values);

// The paper's average over a result's tasks: the mean of ten numbers, one of which is the mean of
// ARC-Easy and ARC-Challenge, and the names of tasks with truncated prompts. Null unless all eleven
// tasks are present.
Json paper_average(const Json& tasks);

// Answers as JSON, as they are saved until a task is finished, and the reverse: Error(damaged) that
// begins with `where` if they are not answers to these prompts.
Json answers_json(const TaskAnswers& answers);
TaskAnswers parse_answers(const Json& json, const TaskPrompts& prompts, const std::string& where);

}  // namespace osp
