// A model's answers to a task, and what they are worth.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/eval/task_prompts.h"

namespace osp {

// What a model said to the first items of a task.
struct TaskAnswers {
  struct Item {
    std::vector<double> log_likelihoods;  // of the choices, nats
    std::string text;                     // of generation
  };
  std::vector<Item> items;
  int64_t cut = 0;     // prompts that lost tokens on the left to fit the model's context
  double seconds = 0;  // over all sittings
};

struct TaskRunOptions {
  Tap* tap = nullptr;
  std::function<void(int64_t done, int64_t total)> progress = {};  // items
  // Called after every chunk of items (256, of generation 32).
  std::function<void(const TaskAnswers&)> on_chunk = {};
  int64_t batch_tokens = 8192;
  std::vector<int64_t> end_tokens = {};  // of generation, as in ScoreOptions
};

// Answers the items after those of `answers`, chunk by chunk; chunks begin at fixed items, so that
// going on after a stop gives the same numbers. Error(interrupted) when a stop is requested, with
// the chunks before in `answers`.
void answer_task(const ParameterStore& store, const Tokenizer& tokenizer,
                 const TaskPrompts& prompts, const TaskRunOptions& options, TaskAnswers& answers);

// What an answer is worth, by each of the task's metrics: of choices whether the likeliest one is
// right as it is, by log-likelihood per character and per byte; of generation whether a reference
// equals the text.
struct ItemMarks {
  bool acc = false, acc_norm = false, acc_bytes = false;
  bool exact_match = false;
};
ItemMarks marks_of(const TaskDescription& task, const TaskItem& item,
                   const TaskAnswers::Item& answer);

// The result of a task (docs/formats.md): of choices acc (the likeliest choice is right), acc_norm
// (by log-likelihood per character) and acc_bytes (per byte), both without the choice's leading
// space; of generation exact_match. Standard errors of a mean: s / √n with s² over n − 1. Items
// with subjects (MMLU) are also counted by subject.
Json task_result(const TaskPrompts& prompts, const TaskAnswers& answers);

// Mean of values and its standard error (0 for fewer than two): {"value", "standard_error"}.
Json mean_json(const std::vector<double>& values);

// The paper's average of a result's tasks: ten numbers, ARC-Easy and ARC-Challenge being one, their
// mean. Null unless all eleven tasks are there.
Json paper_average(const Json& tasks);

// Answers as they are kept until a task is finished, and the reverse: Error(damaged) that begins
// with `where` if they are not answers to these prompts.
Json answers_json(const TaskAnswers& answers);
TaskAnswers parse_answers(const Json& json, const TaskPrompts& prompts, const std::string& where);

}  // namespace osp
