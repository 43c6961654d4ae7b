// Results read from JSON files: the output of `osp eval`, `osp analyze` and `osp quantize`, and the
// quantize.json of a quantized model dir. Formats: docs/formats.md. Every key must have its type,
// required keys must be present; unknown keys are ignored, so that a later version may add some.
// Tested by run_data_test.cpp and tests/python/test_report_browser.py.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/report/measurement.h"
#include "osp/report/task_items.h"

namespace osp {

// One of the largest absolute activations, and the place where it was found.
struct ReportedActivation {
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
  ReportedActivation largest;
  Measurement at = {};
};

// Counts of the entries of one hidden state, or of attention logits, over equal bins of
// [low, high].
struct ReportedHistogram {
  std::string point;
  int64_t layer = 0;
  double low = 0;
  double high = 0;
  std::vector<double> counts;
  double mean = 0;
  double std = 0;
};

// A subject of a benchmark.
struct SubjectScore {
  std::string name;
  double items = std::numeric_limits<double>::quiet_NaN();
  double score = std::numeric_limits<double>::quiet_NaN();
};

// A benchmark's score. Everything but the value may be NaN.
struct TaskResult {
  std::string task;
  std::string metric;
  double value = std::numeric_limits<double>::quiet_NaN();
  double standard_error = std::numeric_limits<double>::quiet_NaN();
  double chance = std::numeric_limits<double>::quiet_NaN();  // score of guessing
  double items = std::numeric_limits<double>::quiet_NaN();
  double cut = 0;  // prompts that were cut to fit the context
  std::vector<SubjectScore> subjects = {};
};

// A model's evaluation at some number of bits.
struct EvalResult {
  std::string bits;  // weights-activations-cache, 16 is off
  double perplexity = std::numeric_limits<double>::quiet_NaN();
  Measurement at = {};
  std::vector<TaskResult> tasks = {};
  double average = std::numeric_limits<double>::quiet_NaN();  // of the tasks
  std::vector<double> of_seeds = {};  // perplexities, where this is a mean over seeds
};

// Noise of one tensor after rounding; the source determines which of the two numbers is known.
struct LayerNoise {
  std::string name;
  double sqnr_db = std::numeric_limits<double>::quiet_NaN();
  double output_error =
      std::numeric_limits<double>::quiet_NaN();  // relative, of the layer's output
};

// A model quantized by a method.
struct QuantizedResult {
  std::string method;
  std::string bits;
  double perplexity_16 = std::numeric_limits<double>::quiet_NaN();
  double perplexity = std::numeric_limits<double>::quiet_NaN();
  double divergence = std::numeric_limits<double>::quiet_NaN();   // nats per token
  double same_choice = std::numeric_limits<double>::quiet_NaN();  // share of equal best tokens
  Measurement at = {};
  std::vector<LayerNoise> layers = {};
};

// Attention logits of all heads of one block: towards the first token and towards the others.
struct LogitHistograms {
  int64_t layer = 0;
  ReportedHistogram first;
  ReportedHistogram others;
};

// The attention sinks of a model.
struct ReportedSinks {
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

// Noise of single tensors rounded to 4 bits, as osp analyze predicts it without
// quantizing the model.
struct PredictedNoise {
  std::string what = {};  // "query", "weights"
  std::vector<LayerNoise> layers = {};
};

// The cost of outliers and of the rest at few bits (osp analyze, "cost"). Divergences
// from the model at 16 bits in nats per token, rounded to nearest.
struct ReportedCost {
  struct Basis {
    static constexpr const char* kOwn = "own basis";
    std::string name;
    double kurtosis = std::numeric_limits<double>::quiet_NaN();  // of what the readers get
    double divergence = std::numeric_limits<double>::quiet_NaN();
    bool own() const { return name == kOwn; }
  };
  struct Site {
    std::string name;
    double only = std::numeric_limits<double>::quiet_NaN();     // this quantizer alone
    double without = std::numeric_limits<double>::quiet_NaN();  // all but this one
  };
  std::string bits = {};
  Measurement at = {};
  double own = std::numeric_limits<double>::quiet_NaN();  // own basis, Hadamard in front of down
  double rotated = std::numeric_limits<double>::quiet_NaN();  // the same in random bases, the mean
  double deviation = std::numeric_limits<double>::quiet_NaN();
  double tax = std::numeric_limits<double>::quiet_NaN();
  double error = std::numeric_limits<double>::quiet_NaN();  // of the tax
  double share = std::numeric_limits<double>::quiet_NaN();
  double readers_share = std::numeric_limits<double>::quiet_NaN();
  double own_added_nats = std::numeric_limits<double>::quiet_NaN();  // of loss
  double all_sites = std::numeric_limits<double>::quiet_NaN();       // every quantizer, no Hadamard
  std::vector<Basis> bases = {};
  std::vector<Site> sites = {};
  Measurement sites_at = {};  // of `sites` and all_sites, on fewer tokens
};

// The results for one model in one file.
struct ModelResults {
  std::string model = {};           // its path as given to the command
  std::string rounded_before = {};  // how its weights had been rounded before, "" if not
  std::vector<EvalResult> evaluation = {};
  Outliers analysis = {};  // the finished model's
  bool has_analysis = false;
  std::vector<ReportedActivation> largest_activations = {};  // in order
  std::vector<ReportedHistogram> histograms = {};
  ReportedSinks sinks = {};
  std::vector<PredictedNoise> predicted = {};
  ReportedCost cost = {};
  std::vector<std::string> verdicts = {};  // the conclusions of the analysis, as sentences
  std::vector<QuantizedResult> quantized = {};
  std::vector<TaskItems> items = {};  // of benchmarks, one by one
  // A call that made these numbers, and the facts it recorded (versions, machine, data).
  struct Source {
    std::string command = {};
    Json facts = Json::object();
  };
  std::vector<Source> sources = {};
};

// The results in a file, whose kind is recognised by its content; `where` is its path and begins
// every message. Error(damaged) for a key that is missing or of another type, Error(unsupported)
// for JSON of any other kind.
std::vector<ModelResults> read_results(const Json& file, const std::string& where);

// The single items that osp eval --save-items wrote, one JSON object per line.
std::vector<ModelResults> read_items(const std::string& text, const std::string& where);

}  // namespace osp
