#include "osp/report/seed_groups.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/report/recipe_kind.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

using Members = std::vector<const RunData*>;

// The recipe as text without what does not change a model's numbers in the mean; "" without one.
std::string recipe_text(const RunData& run) {
  if (!run.recipe.is_object() || run.recipe.empty()) return "";
  Json recipe = run.recipe;
  recipe.erase("run");
  const std::map<std::string, std::vector<std::string>> free = {
      {"data", {"path", "verify"}},
      {"train",
       {"seed", "log_every", "sample_every", "sample_prompt", "sample_tokens", "checkpoint_every",
        "keep_checkpoints", "background_save", "max_failed_saves"}}};
  for (const auto& [section, keys] : free) {
    if (!recipe.contains(section) || !recipe[section].is_object()) continue;
    for (const std::string& key : keys) recipe[section].erase(key);
  }
  return json_text(recipe);
}

// The mean of a number that every member has; NaN if one lacks it.
template <class Number>
double mean_of(const Members& members, const Number& number) {
  double sum = 0;
  for (const RunData* member : members) sum += number(*member);
  return sum / static_cast<double>(members.size());
}

// The mean curve over the tokens that all members logged, and its band.
Series join_series(const Members& members, Series RunData::*which) {
  std::map<double, std::vector<double>> points;
  for (const RunData* member : members) {
    const Series& series = member->*which;
    for (size_t i = 0; i < series.size(); ++i) points[series.tokens[i]].push_back(series.values[i]);
  }
  Series joined;
  for (const auto& [tokens, values] : points) {
    if (values.size() != members.size()) continue;
    double sum = 0, count = 0, low = kNan, high = kNan;
    for (const double value : values) {
      if (!std::isfinite(value)) continue;
      sum += value;
      ++count;
      if (!(low <= value)) low = value;
      if (!(high >= value)) high = value;
    }
    joined.add(tokens, count > 0 ? sum / count : kNan);
    joined.low.push_back(low);
    joined.high.push_back(high);
  }
  return joined;
}

// Means layer by layer; the first list if the others have another length.
std::vector<double> mean_list(const std::vector<const std::vector<double>*>& lists) {
  std::vector<double> mean = *lists.front();
  for (size_t l = 1; l < lists.size(); ++l) {
    if (lists[l]->size() != mean.size()) return *lists.front();
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += (*lists[l])[i];
  }
  for (double& value : mean) value /= static_cast<double>(lists.size());
  return mean;
}

Outliers join_outliers(const Members& members, Outliers RunData::*which) {
  Outliers joined = members.front()->*which;
  std::vector<const std::vector<double>*> layers;
  bool on_other_texts = false;
  for (const RunData* member : members) {
    const Outliers& outliers = member->*which;
    layers.push_back(&outliers.kurtosis_per_layer);
    if (outliers.largest.value > joined.largest.value) joined.largest = outliers.largest;
    on_other_texts = on_other_texts || outliers.at.phrase() != joined.at.phrase();
  }
  joined.kurtosis = mean_of(members, [&](const RunData& run) { return (run.*which).kurtosis; });
  joined.kurtosis_per_layer = mean_list(layers);
  if (on_other_texts) {
    joined.kurtosis = joined.largest.value = kNan;
    joined.kurtosis_per_layer.clear();
    joined.at = {};
  }
  return joined;
}

void join_layers(const Members& members, RunData& joined) {
  const bool together = std::all_of(members.begin(), members.end(), [&](const RunData* member) {
    return member->kurtosis.tokens == joined.kurtosis.tokens &&
           member->kurtosis_per_layer.size() == joined.kurtosis_per_layer.size();
  });
  if (!together) {  // the heat map is that of the first, over its own tokens
    joined.kurtosis = members.front()->kurtosis;
    return;
  }
  for (size_t i = 0; i < joined.kurtosis_per_layer.size(); ++i) {
    std::vector<const std::vector<double>*> lists;
    for (const RunData* member : members) lists.push_back(&member->kurtosis_per_layer[i]);
    joined.kurtosis_per_layer[i] = mean_list(lists);
  }
}

// A member's result that was measured like this one; null if it has none.
const EvalResult* like(const EvalResult& wanted, const RunData& run) {
  for (const EvalResult& result : run.evaluation) {
    if (result.bits == wanted.bits && result.at.key() == wanted.at.key()) return &result;
  }
  return nullptr;
}

// The mean scores of the subjects, as of one seed's items; none where a seed lacks a subject.
std::vector<SubjectScore> join_subjects(const std::vector<const TaskResult*>& tasks) {
  std::vector<SubjectScore> joined = tasks.front()->subjects;
  for (SubjectScore& subject : joined) {
    double sum = 0;
    for (const TaskResult* task : tasks) {
      const auto found =
          std::find_if(task->subjects.begin(), task->subjects.end(),
                       [&](const SubjectScore& other) { return other.name == subject.name; });
      if (found == task->subjects.end()) return {};
      sum += found->score;
    }
    subject.score = sum / static_cast<double>(tasks.size());
  }
  return joined;
}

// The mean score of a task over results; its error is that of the mean.
TaskResult join_task(const TaskResult& task, const std::vector<const EvalResult*>& results) {
  TaskResult joined = task;
  double sum = 0, squares = 0;
  std::vector<const TaskResult*> all;
  for (const EvalResult* result : results) {
    const auto found =
        std::find_if(result->tasks.begin(), result->tasks.end(),
                     [&](const TaskResult& other) { return other.task == task.task; });
    sum += found == result->tasks.end() ? kNan : found->value;
    squares += found == result->tasks.end() ? kNan : std::pow(found->standard_error, 2);
    if (found != result->tasks.end()) all.push_back(&*found);
  }
  const auto count = static_cast<double>(results.size());
  joined.value = sum / count;
  joined.standard_error = std::sqrt(squares) / count;
  joined.subjects = all.size() == results.size() ? join_subjects(all) : std::vector<SubjectScore>{};
  return joined;
}

// The results that every member has, as means: seeds of one model are never mixed with seeds of
// another number of bits.
std::vector<EvalResult> join_evaluations(const Members& members) {
  std::vector<EvalResult> joined;
  for (const EvalResult& first : members.front()->evaluation) {
    std::vector<const EvalResult*> results;
    for (const RunData* member : members) results.push_back(like(first, *member));
    if (std::count(results.begin(), results.end(), nullptr) > 0) continue;
    EvalResult mean = first;
    mean.perplexity = mean.average = 0;
    for (const EvalResult* result : results) {
      mean.perplexity += result->perplexity / static_cast<double>(results.size());
      mean.of_seeds.push_back(result->perplexity);
      mean.average += result->average / static_cast<double>(results.size());
    }
    for (TaskResult& task : mean.tasks) task = join_task(task, results);
    joined.push_back(std::move(mean));
  }
  return joined;
}

// The means of a list that every member has, item by item; none where one has other items.
template <class Item>
std::vector<Item> join_items(const Members& members, std::vector<Item> ReportedCost::*which,
                             const std::vector<double Item::*>& numbers) {
  std::vector<Item> joined = members.front()->cost.*which;
  for (size_t i = 0; i < joined.size(); ++i) {
    for (double Item::*number : numbers) joined[i].*number = 0;
    for (const RunData* member : members) {
      const std::vector<Item>& items = member->cost.*which;
      if (items.size() != joined.size() || items[i].name != joined[i].name) return {};
      for (double Item::*number : numbers) {
        joined[i].*number += items[i].*number / static_cast<double>(members.size());
      }
    }
  }
  return joined;
}

// The standard deviation of a number over the members.
double deviation_over(const Members& members, double ReportedCost::*number) {
  const double mean = mean_of(members, [&](const RunData& run) { return run.cost.*number; });
  double squares = 0;
  for (const RunData* member : members) squares += std::pow(member->cost.*number - mean, 2);
  return std::sqrt(squares / static_cast<double>(members.size() - 1));
}

// Means over the members, with their deviations over seeds in place of those over rotations.
// Nothing where they were measured at other bits or on other texts.
ReportedCost join_cost(const Members& members) {
  ReportedCost cost = members.front()->cost;
  for (const RunData* member : members) {
    const ReportedCost& other = member->cost;
    // A file per seed is no other text.
    Measurement at = other.at;
    at.file = cost.at.file;
    if (other.bits != cost.bits || at.key() != cost.at.key()) return {};
  }
  for (double ReportedCost::*number :
       {&ReportedCost::own, &ReportedCost::rotated, &ReportedCost::tax, &ReportedCost::share,
        &ReportedCost::readers_share, &ReportedCost::own_added_nats, &ReportedCost::all_sites}) {
    cost.*number = mean_of(members, [&](const RunData& run) { return run.cost.*number; });
  }
  cost.deviation = deviation_over(members, &ReportedCost::rotated);
  cost.error = deviation_over(members, &ReportedCost::tax);
  using Basis = ReportedCost::Basis;
  using Site = ReportedCost::Site;
  cost.bases =
      join_items<Basis>(members, &ReportedCost::bases, {&Basis::kurtosis, &Basis::divergence});
  const bool same_sites = std::all_of(members.begin(), members.end(), [&](const RunData* member) {
    return member->cost.sites_at.phrase() == cost.sites_at.phrase();
  });
  cost.sites = !same_sites
                   ? std::vector<Site>{}
                   : join_items<Site>(members, &ReportedCost::sites, {&Site::only, &Site::without});
  return cost;
}

// "3 seeds", or "4 runs of 3 seeds" where one seed stands twice.
std::string seeds_text(const RunData& model) {
  if (model.distinct_seeds == model.seeds) return fmt::format("{} seeds", model.seeds);
  return fmt::format("{} runs of {} seed{}", model.seeds, model.distinct_seeds,
                     model.distinct_seeds == 1 ? "" : "s");
}

RunData join(const Members& members) {
  RunData joined = *members.front();
  joined.seeds = members.size();
  std::set<std::string> seeds;
  for (const RunData* member : members) {
    const Json* run = member->recipe.contains("run") ? &member->recipe["run"] : nullptr;
    seeds.insert(run && run->contains("seed") ? json_text((*run)["seed"]) : "");
  }
  joined.distinct_seeds = seeds.size();
  // Curves.
  for (Series RunData::*which :
       {&RunData::loss, &RunData::learning_rate, &RunData::gradient_norm, &RunData::tokens_per_s,
        &RunData::clock, &RunData::validation_loss, &RunData::kurtosis, &RunData::largest,
        &RunData::attention_logit}) {
    joined.*which = join_series(members, which);
  }
  join_layers(members, joined);
  // Numbers of the finished models.
  joined.last_validation = join_outliers(members, &RunData::last_validation);
  joined.has_analysis = std::all_of(members.begin(), members.end(),
                                    [](const RunData* member) { return member->has_analysis; });
  if (joined.has_analysis) joined.analysis = join_outliers(members, &RunData::analysis);
  joined.evaluation = join_evaluations(members);
  joined.cost = join_cost(members);
  joined.quantized.clear();
  for (const RunData* member : members) {
    joined.quantized.insert(joined.quantized.end(), member->quantized.begin(),
                            member->quantized.end());
  }
  return joined;
}

// "OSP (3 seeds)"; the rate or the first run's label where several models have one name.
void name_groups(std::vector<RunData>& models) {
  const auto count_named = [&](const std::string& label) {
    return std::count_if(models.begin(), models.end(),
                         [&](const RunData& model) { return model.label == label; });
  };
  std::vector<std::string> labels;
  for (const RunData& model : models) {
    labels.push_back(model.seeds > 1 ? kind_name(recipe_kind(model.recipe)) : model.label);
    if (labels.back().empty()) labels.back() = model.label;
  }
  for (size_t i = 0; i < models.size(); ++i) {
    if (models[i].seeds < 2) continue;
    std::string label = labels[i];
    if (std::count(labels.begin(), labels.end(), label) > 1) {
      label += ", rate " + format_number(models[i].peak_learning_rate());
    }
    label += " (" + seeds_text(models[i]) + ")";
    models[i].label = count_named(label) == 0 ? label : label + ", " + models[i].name;
  }
}

}  // namespace

std::vector<std::vector<size_t>> seed_groups(const std::vector<RunData>& runs) {
  std::vector<std::vector<size_t>> groups;
  std::map<std::string, size_t> known;
  for (size_t r = 0; r < runs.size(); ++r) {
    const std::string text = runs[r].trained_here() ? recipe_text(runs[r]) : "";
    const auto found = text.empty() ? known.end() : known.find(text);
    if (found != known.end()) {
      groups[found->second].push_back(r);
      continue;
    }
    if (!text.empty()) known[text] = groups.size();
    groups.push_back({r});
  }
  return groups;
}

std::vector<RunData> join_seeds(const std::vector<RunData>& runs) {
  std::vector<RunData> models;
  for (const std::vector<size_t>& group : seed_groups(runs)) {
    Members members;
    for (const size_t r : group) members.push_back(&runs[r]);
    models.push_back(members.size() == 1 ? *members.front() : join(members));
  }
  name_groups(models);
  return models;
}

}  // namespace osp
