// Benchmark tasks: the questions that a task asks a model, and how the answers are judged.
//
// A task is one row of the table in task_table.cpp. Two sets of prompts are known:
//   reference   those of the paper: lighteval 0.9.2 with the task file of the paper's repository
//   lm-eval     those of lm-evaluation-harness' tasks of the same names (shots stay the paper's)
// A task asks in one of two ways. `choices`: the log-likelihood of each choice after the question;
// the most likely is the answer. `generation`: greedy text after the question and its shots, which
// must equal a reference after the task's normalisation (quasi-exact match).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "osp/data/benchmark_files.h"

namespace osp {

enum class Prompts { reference, lm_eval };

// "reference" or "lm-eval"; Error(usage) for another name.
Prompts parse_prompts(std::string_view name);
std::string_view prompts_name(Prompts prompts);

// One question, without shots.
struct TaskItem {
  // Text in front of the choices: one for all, or one for each (WinoGrande in lm-eval).
  std::vector<std::string> contexts = {};
  // Texts that continue the context, mostly with a space in front.
  std::vector<std::string> choices = {};
  size_t answer = 0;                         // index of the right choice
  std::vector<std::string> references = {};  // generation only: right answers
  std::string shot_answer = {};              // generation only: text after the context in a shot
  std::string subject = {};  // MMLU only, as the data name it: "high_school_physics"
};

struct TaskDescription {
  std::string name;
  // Weight in the paper's average: ARC-Easy and ARC-Challenge share one; 0: not one of its tasks.
  double paper_weight = 0;
  BenchmarkPlace place = {};
  std::vector<std::string> splits = {};       // scored: the first one that exists
  std::vector<std::string> shot_splits = {};  // their first records are the shots
  int64_t shots = 0;
  int64_t max_tokens = 0;  // generated; 0: a task of choices
  std::vector<std::string> stop = {};
  std::vector<std::string> stop_lm_eval = {};  // with lm-eval's prompts
  // Makes an item of a record.
  TaskItem (*item)(const BenchmarkRecord&, Prompts) = nullptr;
  // Generation only: whether the text is one of the right answers.
  using Matches = bool (*)(std::string_view generated, std::span<const std::string> references);
  Matches matches = nullptr;
  Matches matches_lm_eval = nullptr;  // with lm-eval's prompts; null: the same

  bool generates() const { return max_tokens > 0; }
  const std::vector<std::string>& stops(Prompts prompts) const {
    return prompts == Prompts::reference ? stop : stop_lm_eval;
  }
  Matches matches_of(Prompts prompts) const {
    return prompts == Prompts::lm_eval && matches_lm_eval != nullptr ? matches_lm_eval : matches;
  }
};

// Tasks by name from a comma-separated list; "paper" stands for the paper's tasks, "all" for all.
// Error(usage) naming the known ones.
std::vector<const TaskDescription*> parse_tasks(const std::string& names);
// True if the list has a benchmark's name at all (or "paper", "all").
bool names_benchmark(const std::string& names);

}  // namespace osp
