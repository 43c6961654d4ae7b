// What a run folder tells the report: the records of metrics.jsonl as curves, the recipe, and the
// evaluation and analysis of the finished model. Formats: docs/formats.md.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/report/series.h"

namespace osp {

// Where the largest absolute activation was found.
struct LargestActivation {
  double value = std::numeric_limits<double>::quiet_NaN();
  int64_t layer = -1;
  int64_t position = -1;
  int64_t channel = -1;
  std::string token;
};

// The outliers of a model at one moment.
struct Outliers {
  double kurtosis = std::numeric_limits<double>::quiet_NaN();  // excess, centred, in context
  double clipped_kurtosis = std::numeric_limits<double>::quiet_NaN();  // the reference's way
  std::vector<double> kurtosis_per_layer;                              // embedding, then each block
  LargestActivation largest;
};

// Counts of one hidden state's entries over equal bins of [low, high].
struct Histogram {
  std::string point;
  int64_t layer = 0;
  double low = 0;
  double high = 0;
  std::vector<double> counts;
  double mean = 0;
  double std = 0;
};

struct EvalResult {
  std::string bits;  // weights-activations-cache, 16 is off
  double perplexity = std::numeric_limits<double>::quiet_NaN();
};

struct TextSample {
  int64_t step = 0;
  std::string prompt;
  std::string text;
};

// One run folder.
struct RunData {
  std::string path;
  std::string name;              // the folder's name
  std::string key;               // the name as an identifier: '-' and '.' become '_'
  std::string label;             // what people read; the name unless given
  Json recipe = Json::object();  // {section: {key: value}}
  Json start = Json::object();   // the start record without the recipe
  Series loss, learning_rate, gradient_norm, tokens_per_s;     // every logged step
  Series validation_loss, kurtosis, largest, attention_logit;  // every validation
  std::vector<std::vector<double>> kurtosis_per_layer;         // [validation][layer]
  std::vector<TextSample> samples;
  Outliers last_validation;
  Outliers analysis;                  // of the finished model; NaN without analysis.json
  std::vector<Histogram> histograms;  // from analysis.json
  std::vector<EvalResult> evaluation;
  Json eval_source = Json::object();      // model and data of eval.json
  Json analysis_source = Json::object();  // model, data and tokens of analysis.json
  int64_t step = 0;
  double tokens = 0;
  double seconds = 0;
  double peak_memory_bytes = 0;
  int64_t skipped_steps = 0;
  bool ended = false;
  std::vector<std::string> missing;  // files and records that were not there, as sentences

  // The finished model's outliers where it was analyzed, else those of the last validation.
  const Outliers& outliers() const;
  // Perplexity at these bits, NaN if not evaluated.
  double perplexity(const std::string& bits) const;
  double final_validation_loss() const;  // NaN without a validation
  double peak_learning_rate() const;     // NaN without a step
};

// Reads a run folder. Error(usage) if it is none; Error(damaged) naming file and line for a torn or
// malformed record; missing recipe.json, eval.json and analysis.json are noted in `missing`.
RunData read_run(const std::string& path);

// Reads several; equal folder names are told apart by the folder above. `labels` are NAME=TEXT with
// a folder's name or key. Error(usage) for a label of no run and for a folder given twice.
std::vector<RunData> read_runs(const std::vector<std::string>& paths,
                               const std::vector<std::string>& labels);

}  // namespace osp
