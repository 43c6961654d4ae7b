// What a run folder tells the report: the records of metrics.jsonl as curves, the recipe, and the
// results of the finished model. Formats: docs/formats.md.
#pragma once

#include <cstdint>
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

// One model: how it was trained, and what was measured of it. A model that comes without its run
// folder has no curves and no recipe.
struct RunData : ModelResults {
  std::string path;              // of the run folder; "" without one
  std::string name;              // the folder's name
  std::string key;               // the name as an identifier: '-' and '.' become '_'
  std::string label;             // what people read; the name unless given
  Json recipe = Json::object();  // {section: {key: value}}
  Json start = Json::object();   // the start record without the recipe
  Series loss, learning_rate, gradient_norm, tokens_per_s;     // every logged step
  Series clock;                                                // seconds of training at those steps
  Series validation_loss, kurtosis, largest, attention_logit;  // every validation
  std::vector<std::vector<double>> kurtosis_per_layer;         // [validation][layer]
  std::vector<TextSample> samples;
  Outliers last_validation;
  int64_t step = 0;
  double tokens = 0;
  double seconds = 0;
  double peak_memory_bytes = 0;
  int64_t skipped_steps = 0;
  bool ended = false;
  std::vector<std::string> missing;  // files and records that were not there, as sentences

  // The finished model's outliers where it was analyzed, else those of the last validation.
  const Outliers& outliers() const;
  bool trained_here() const { return !path.empty(); }
  // Perplexity at these bits, NaN if not evaluated.
  double perplexity(const std::string& bits) const;
  double final_validation_loss() const;  // NaN without a validation
  double peak_learning_rate() const;     // NaN without a step
};

// Reads a run folder. Error(usage) if it is none; Error(damaged) naming file and line for a torn or
// malformed record; missing recipe.json, eval.json and analysis.json are noted in `missing`. Of a
// run that is `live`, a last line that is not complete yet is left out.
RunData read_run(const std::string& path, bool live = false);

}  // namespace osp
