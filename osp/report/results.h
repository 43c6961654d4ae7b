// What the JSON files of our commands tell the report: the output of `osp eval`, `osp analyze` and
// `osp quantize`, and the quantize.json of a quantized model dir. Formats: docs/formats.md. A key
// that is there must be of its type, one that is needed must be there; keys that are not known are
// left alone, so that a later version may say more.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "osp/base/json.h"

namespace osp {

// One of the largest absolute activations, and where it was found.
struct LargestActivation {
  double value = std::numeric_limits<double>::quiet_NaN();
  int64_t layer = -1;
  int64_t position = -1;
  int64_t channel = -1;
  std::string token = {};
  std::string point = {};   // "" for the residual stream
  std::string before = {};  // the text around the token
  std::string after = {};
};

// The outliers of a model at one moment.
struct Outliers {
  double kurtosis = std::numeric_limits<double>::quiet_NaN();  // excess, centred, in context
  double clipped_kurtosis = std::numeric_limits<double>::quiet_NaN();  // the reference's way
  std::vector<double> kurtosis_per_layer;                              // embedding, then each block
  LargestActivation largest;
};

// Counts of entries over equal bins of [low, high]: of one hidden state, or of attention logits.
struct Histogram {
  std::string point;
  int64_t layer = 0;
  double low = 0;
  double high = 0;
  std::vector<double> counts;
  double mean = 0;
  double std = 0;
};

// A benchmark's score. Everything but the value may be NaN.
struct TaskResult {
  std::string task;
  std::string metric;
  double value = std::numeric_limits<double>::quiet_NaN();
  double standard_error = std::numeric_limits<double>::quiet_NaN();
  double chance = std::numeric_limits<double>::quiet_NaN();  // of guessing
  double items = std::numeric_limits<double>::quiet_NaN();
};

// A model at some number of bits.
struct EvalResult {
  std::string bits;  // weights-activations-cache, 16 is off
  double perplexity = std::numeric_limits<double>::quiet_NaN();
  std::vector<TaskResult> tasks = {};
  double average = std::numeric_limits<double>::quiet_NaN();  // of the tasks
};

// Signal to noise of one tensor after rounding. Which of the two is known depends on the source.
struct LayerNoise {
  std::string name;
  double sqnr_db = std::numeric_limits<double>::quiet_NaN();
  double output_error = std::numeric_limits<double>::quiet_NaN();  // relative, of its product
};

// A model quantized by a method.
struct QuantizedResult {
  std::string method;
  std::string bits;
  double perplexity_16 = std::numeric_limits<double>::quiet_NaN();
  double perplexity = std::numeric_limits<double>::quiet_NaN();
  double divergence = std::numeric_limits<double>::quiet_NaN();   // nats per token
  double same_choice = std::numeric_limits<double>::quiet_NaN();  // share of equal best tokens
  std::vector<LayerNoise> layers = {};
};

// Attention logits of one block, all of its heads: towards the first token and towards the others.
struct LogitHistograms {
  int64_t layer = 0;
  Histogram first;
  Histogram others;
};

// Where attention goes.
struct AttentionSinks {
  std::vector<std::vector<double>> first_share = {};      // [layer][head]
  std::vector<std::vector<double>> strongest_share = {};  // of the key that gets most
  std::vector<LogitHistograms> logits = {};
  double threshold = std::numeric_limits<double>::quiet_NaN();  // a head above it is a sink head
  double heads = std::numeric_limits<double>::quiet_NaN();
  double first_sink_heads = std::numeric_limits<double>::quiet_NaN();
  double strongest_sink_heads = std::numeric_limits<double>::quiet_NaN();
  double sink_logit = std::numeric_limits<double>::quiet_NaN();
  double other_logit = std::numeric_limits<double>::quiet_NaN();
  double key_norm_ratio = std::numeric_limits<double>::quiet_NaN();    // sink over others
  double value_norm_ratio = std::numeric_limits<double>::quiet_NaN();  // sink over others
};

// Tensors rounded to 4 bits without quantizing the model, as osp analyze predicts it.
struct PredictedNoise {
  std::string what = {};  // "query", "weights"
  std::vector<LayerNoise> layers = {};
};

// What one file says about one model.
struct ModelResults {
  std::string model = {};  // its path as given to the command
  std::vector<EvalResult> evaluation = {};
  Outliers analysis = {};  // of the finished model
  bool has_analysis = false;
  std::vector<LargestActivation> largest_activations = {};  // in order
  std::vector<Histogram> histograms = {};
  AttentionSinks sinks = {};
  std::vector<PredictedNoise> predicted = {};
  std::vector<std::string> verdicts = {};  // what the analysis concludes, as sentences
  std::vector<QuantizedResult> quantized = {};
  // Each call that made these numbers, and what it recorded about itself (versions, machine, data).
  struct Source {
    std::string command = {};
    Json facts = Json::object();
  };
  std::vector<Source> sources = {};
};

// excess_kurtosis and largest_activation, as validation records and analysis.json both have them.
Outliers read_outliers(const Json& object, const std::string& where);

// The results in a file that is recognised by its content; `where` is its path and begins every
// message. Error(damaged) for a key that is missing or of another type, Error(unsupported) for JSON
// that is none of ours.
std::vector<ModelResults> read_results(const Json& file, const std::string& where);

}  // namespace osp
