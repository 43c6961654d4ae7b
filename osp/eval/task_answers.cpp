#include "osp/eval/task_answers.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <span>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/base/timing.h"
#include "osp/eval/answer_text.h"
#include "osp/eval/request_generator.h"
#include "osp/eval/task_table.h"

namespace osp {
namespace {

constexpr int64_t kChoiceChunk = 256;
constexpr int64_t kGenerationChunk = 32;

// Index of the largest value, the first among equals; NaN is never the largest.
size_t best_of(const std::vector<double>& values) {
  size_t best = 0;
  for (size_t i = 1; i < values.size(); ++i) {
    if (values[i] > values[best] || std::isnan(values[best])) best = i;
  }
  return best;
}

std::string_view without_space(std::string_view choice) {
  return choice.starts_with(' ') ? choice.substr(1) : choice;
}

// True if the right choice has the largest log-likelihood per `size` of the choice.
template <class Size>
bool is_right(const TaskItem& item, std::vector<double> scores, const Size& size) {
  for (size_t i = 0; i < scores.size(); ++i) {
    scores[i] /= static_cast<double>(size(without_space(item.choices[i])));
  }
  const size_t best = best_of(scores);
  return best == item.answer && !std::isnan(scores[best]);
}

void score_chunk(const ParameterStore& store, const PromptEncoder& encoder,
                 std::span<const TaskItem> items, const ScoreOptions& options,
                 TaskAnswers& answers) {
  std::vector<ChoiceRequest> requests;
  std::vector<size_t> requests_of;
  for (const TaskItem& item : items) {
    auto more = choice_requests(encoder, item);
    requests_of.push_back(more.size());
    std::move(more.begin(), more.end(), std::back_inserter(requests));
  }
  const auto scored = score_choices(store, requests, options);
  auto at = scored.begin();
  for (const size_t count : requests_of) {
    TaskAnswers::Item& item = answers.items.emplace_back();
    bool cut = false;
    for (const auto end = at + static_cast<ptrdiff_t>(count); at != end; ++at) {
      for (const ChoiceScore& choice : at->choices) {
        item.log_likelihoods.push_back(choice.log_likelihood);
      }
      cut = cut || at->cut > 0;
    }
    answers.cut += cut;
  }
}

void generate_chunk(const ParameterStore& store, const Tokenizer& tokenizer,
                    const PromptEncoder& encoder, const TaskPrompts& prompts, size_t begin,
                    size_t end, const ScoreOptions& options, TaskAnswers& answers) {
  const TaskDescription& task = *prompts.task;
  // A short context keeps half of its room for the question.
  const int64_t max_tokens = std::min(task.max_tokens, store.config.context / 2);
  std::vector<GenerationRequest> requests;
  for (size_t i = begin; i < end; ++i) {
    requests.push_back({encoder.context(prompts.items[i].contexts.front()), max_tokens,
                        task.stops(prompts.prompts)});
  }
  for (GeneratedText& generated : generate_greedy(store, tokenizer, requests, options)) {
    answers.items.push_back({{}, std::move(generated.text)});
    answers.cut += generated.cut > 0;
  }
}

void check_stop(const TaskPrompts& prompts, const TaskAnswers& answers) {
  if (stop_requested() == 0) return;
  fail(ErrorCode::interrupted, "stopped by {} in {} after {} of {} items", stop_signal_name(),
       prompts.task->name, answers.items.size(), prompts.items.size());
}

// Marks over the items of one subject.
struct SubjectSum {
  int64_t n = 0, acc = 0, acc_norm = 0;

  void add(const ItemMarks& marks) {
    ++n;
    acc += marks.acc;
    acc_norm += marks.acc_norm;
  }
  double share(int64_t count) const { return static_cast<double>(count) / static_cast<double>(n); }
  Json json() const { return {{"n", n}, {"acc", share(acc)}, {"acc_norm", share(acc_norm)}}; }
};

using SubjectSums = std::map<std::string, SubjectSum>;

// The unweighted mean of the subjects' acc_norm, and its standard error √(Σ s² / n) / S over S
// subjects of n items. A subject of one item has no s of its own and takes that of all items.
Json mean_over_subjects(const SubjectSums& subjects, const std::vector<double>& all_items) {
  const double over_all = mean_json(all_items)["standard_error"].get<double>();
  const double spread = over_all * over_all * static_cast<double>(all_items.size());
  const double num_subjects = static_cast<double>(subjects.size());
  double mean = 0, variance = 0;
  for (const auto& [name, sum] : subjects) {
    const double p = sum.share(sum.acc_norm), n = static_cast<double>(sum.n);
    mean += p / num_subjects;
    variance += n > 1 ? p * (1 - p) / (n - 1) : spread;
  }
  return {{"value", mean}, {"standard_error", std::sqrt(variance) / num_subjects}};
}

// How MMLU's score is formed, as the average's sentence says it.
std::string mmlu_weighting(const Json& mmlu) {
  if (mmlu.value("mean_over", "items") != "subjects") return " (the mean of its items)";
  return fmt::format(" (the unweighted mean of its {} subjects)", mmlu["subjects"].size());
}

}  // namespace

void answer_task(const ParameterStore& store, const Tokenizer& tokenizer,
                 const TaskPrompts& prompts, const TaskRunOptions& options, TaskAnswers& answers) {
  const PromptEncoder encoder(tokenizer);
  const bool generates = prompts.task->generates();
  const int64_t chunk = generates ? kGenerationChunk : kChoiceChunk;
  const auto total = static_cast<int64_t>(prompts.items.size());
  while (static_cast<int64_t>(answers.items.size()) < total) {
    const auto start = std::chrono::steady_clock::now();
    const auto begin = static_cast<int64_t>(answers.items.size());
    const int64_t end = std::min(total, begin + chunk);
    check_stop(prompts, answers);
    // A stop takes effect within a chunk too; its answers are then dropped.
    ScoreOptions score{options.tap, options.batch_tokens, options.end_tokens};
    score.progress = [&](int64_t done, int64_t all) {
      check_stop(prompts, answers);
      if (options.progress) options.progress(begin + done * (end - begin) / all, total);
    };
    if (generates) {
      generate_chunk(store, tokenizer, encoder, prompts, static_cast<size_t>(begin),
                     static_cast<size_t>(end), score, answers);
    } else {
      score_chunk(store, encoder,
                  std::span(prompts.items)
                      .subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
                  score, answers);
    }
    answers.seconds += seconds_since(start);
    if (options.on_chunk) options.on_chunk(answers);
  }
}

Json mean_json(const std::vector<double>& values) {
  const double n = static_cast<double>(values.size());
  double mean = 0, squares = 0;
  for (const double value : values) mean += value / n;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const double error = n > 1 ? std::sqrt(squares / (n - 1) / n) : 0.0;
  return {{"value", mean}, {"standard_error", error}};
}

ItemMarks marks_of(const TaskDescription& task, Prompts prompts, const TaskItem& item,
                   const TaskAnswers::Item& answer) {
  ItemMarks marks;
  if (task.generates()) {
    marks.exact_match = task.matches_of(prompts)(answer.text, item.references);
    return marks;
  }
  const auto& scores = answer.log_likelihoods;
  marks.acc = is_right(item, scores, [](std::string_view) { return 1; });
  marks.acc_norm = is_right(item, scores, num_characters);
  marks.acc_bytes = is_right(item, scores, [](std::string_view text) { return text.size(); });
  return marks;
}

Json task_result(const TaskPrompts& prompts, const TaskAnswers& answers) {
  OSP_CHECK(answers.items.size() == prompts.items.size(), "{} answers to {} items",
            answers.items.size(), prompts.items.size());
  const TaskDescription& task = *prompts.task;
  // Mark every item.
  std::vector<double> acc, acc_norm, acc_bytes, exact_match;
  SubjectSums subjects;
  double chance = 0;
  for (size_t i = 0; i < prompts.items.size(); ++i) {
    const TaskItem& item = prompts.items[i];
    const ItemMarks marks = marks_of(task, prompts.prompts, item, answers.items[i]);
    exact_match.push_back(marks.exact_match);
    acc.push_back(marks.acc);
    acc_norm.push_back(marks.acc_norm);
    acc_bytes.push_back(marks.acc_bytes);
    if (task.generates()) continue;
    chance += 1.0 / static_cast<double>(item.choices.size() * prompts.items.size());
    if (!item.subject.empty()) subjects[item.subject].add(marks);
  }
  // The score is exact_match or acc_norm; the other metrics stand beside it, always over items. The
  // reference takes every subject for a task of its own, lm-eval weights subjects by their items.
  const bool over_subjects = !subjects.empty() && prompts.prompts == Prompts::reference;
  const Json over_items = mean_json(task.generates() ? exact_match : acc_norm);
  const Json score = over_subjects ? mean_over_subjects(subjects, acc_norm) : over_items;
  Json json = {{"score", score["value"]},
               {"standard_error", score["standard_error"]},
               {"metric", task.generates() ? "exact_match" : "acc_norm"},
               {"mean_over", over_subjects ? "subjects" : "items"},
               {"n", prompts.items.size()},
               {"shots", task.shots},
               {"chance", chance}};
  if (!task.generates()) {
    json["acc"] = mean_json(acc);
    json["acc_norm"] = over_items;
    json["acc_bytes"] = mean_json(acc_bytes);
  }
  for (const auto& [name, sum] : subjects) json["subjects"][name] = sum.json();
  json["cut"] = answers.cut;
  json["prompts_sha256"] = prompts.sha256;
  json["seconds"] = answers.seconds;
  return json;
}

Json paper_average(const Json& tasks) {
  double sum = 0, weights = 0;
  Json truncated = Json::array();
  for (const TaskDescription& task : benchmark_tasks()) {
    if (task.paper_weight == 0) continue;
    if (!tasks.contains(task.name)) return nullptr;
    const Json& result = tasks[task.name];
    sum += task.paper_weight * result["score"].get<double>();
    weights += task.paper_weight;
    if (result.value("cut", int64_t{0}) > 0) truncated.push_back(task.name);
  }
  return {{"value", sum / weights},
          {"formed",
           fmt::format("mean of ten scores: ARC (the mean of ARC-Easy and ARC-Challenge), "
                       "CommonsenseQA, GSM8K, HellaSwag, MMLU{}, OpenBookQA, PIQA, SIQA, TriviaQA, "
                       "WinoGrande",
                       mmlu_weighting(tasks["mmlu"]))},
          {"truncated", truncated}};
}

Json answers_json(const TaskAnswers& answers) {
  Json items = Json::array();
  for (const TaskAnswers::Item& item : answers.items) {
    if (item.log_likelihoods.empty()) {
      items.push_back(item.text);
    } else {
      items.push_back(item.log_likelihoods);
    }
  }
  return {{"items", items}, {"cut", answers.cut}, {"seconds", answers.seconds}};
}

TaskAnswers parse_answers(const Json& json, const TaskPrompts& prompts, const std::string& where) {
  TaskAnswers answers;
  answers.cut = json_int(json, "cut", where);
  answers.seconds = json_number(json, "seconds", where);
  const auto damaged = [&](size_t item) {
    fail(ErrorCode::damaged, "{}: answer {} is not one to item {} of {}; begin again without it",
         where, item + 1, item + 1, prompts.task->name);
  };
  if (!json.contains("items") || !json["items"].is_array()) damaged(0);
  for (size_t i = 0; i < json["items"].size(); ++i) {
    const Json& item = json["items"][i];
    if (i >= prompts.items.size()) damaged(i);
    TaskAnswers::Item& answer = answers.items.emplace_back();
    if (prompts.task->generates()) {
      if (!item.is_string()) damaged(i);
      answer.text = item.get<std::string>();
      continue;
    }
    if (!item.is_array() || item.size() != prompts.items[i].choices.size()) damaged(i);
    for (const Json& value : item) {
      if (!value.is_number() && !value.is_null()) damaged(i);  // NaN is written as null
      answer.log_likelihoods.push_back(value.is_null() ? std::numeric_limits<double>::quiet_NaN()
                                                       : value.get<double>());
    }
  }
  return answers;
}

}  // namespace osp
