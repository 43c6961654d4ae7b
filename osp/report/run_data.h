// A run folder as the report shows it: the records of metrics.jsonl as curves, the recipe, and the
// results of the finished model. Formats: docs/formats.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/report/results.h"
#include "osp/report/series.h"

namespace osp {

struct TextSample {
  int64_t step = 0;
  std::string prompt;
  std::string text;
};

// One model: its training and its measurements. A model without its run folder has no curves
// and no recipe.
struct RunData : ModelResults {
  std::string path;              // the run folder; "" without one
  std::string name;              // the folder's name
  std::string key;               // the name as an identifier: '-' and '.' become '_'
  std::string label;             // the name shown to people; `name` unless given
  Json recipe = Json::object();  // {section: {key: value}}
  Json start = Json::object();   // the start record without the recipe
  Series loss, learning_rate, gradient_norm, tokens_per_s;     // every logged step
  Series clock;                                                // seconds of training at those steps
  Series validation_loss, kurtosis, largest, attention_logit;  // every validation
  std::vector<std::vector<double>> kurtosis_per_layer;         // [validation][layer]
  std::vector<TextSample> samples;
  Outliers last_validation;
  size_t seeds = 1;  // the runs that this is the mean of (seed_groups.h)
  size_t distinct_seeds = 1;
  int64_t step = 0;
  double tokens = 0;
  double seconds = 0;
  double peak_memory_bytes = 0;
  int64_t skipped_steps = 0;
  bool ended = false;
  std::vector<std::string> missing;  // sentences about absent files and records

  // The finished model's outliers where it was analyzed, else those of the last validation.
  const Outliers& outliers() const;
  bool trained_here() const { return !path.empty(); }
  // The perplexities by what they were measured on, in the order of the results. Rounding to
  // nearest is that of osp eval; without it, method rtn of osp quantize.
  std::vector<TextPerplexities> perplexities() const;
  double final_validation_loss() const;  // NaN without a validation
  double peak_learning_rate() const;     // NaN without a step
};

// Reads a run folder. Error(usage) if it is not one; Error(damaged) naming file and line for a torn
// or malformed record; missing recipe.json, eval.json and analysis.json are noted in `missing`.
// With `live`, an incomplete last line is skipped: the run is still writing it.
RunData read_run(const std::string& path, bool live = false);

// Adds results to a model: they replace older ones at the same bits, or of the same method and
// bits, that were measured on the same text in the same way.
void add_results(ModelResults results, RunData& run);

// Sets name, key and label of a model.
void set_name(const std::string& name, RunData& run);

// The absolute path without ".", ".." and a slash at the end.
std::filesystem::path clean_path(const std::string& path);

}  // namespace osp
