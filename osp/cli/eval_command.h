// The options of `osp eval`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/eval/perplexity.h"
#include "osp/quant/activation_grids.h"
#include "osp/quant/bits.h"

namespace osp {

struct EvalCommand {
  CommonOptions common;
  std::vector<std::string> models;
  std::string data;
  std::string tasks = "perplexity";
  std::string bits;  // "": the model's own
  // Perplexity only.
  ActivationGroups groups;
  PerplexityOptions perplexity;
  std::string precision = "fp32";
  std::string divergence_from;
  bool tax = false;
  int64_t rotations = 3;
  EngineChoice engine;
  // Benchmarks only.
  std::string prompts = "reference";
  int64_t limit = 0;
  std::string out, resume, table, save_items;

  // The widths to measure a model at that is not quantized.
  std::vector<BitWidths> widths() const {
    return bits.empty() ? std::vector<BitWidths>{BitWidths{}} : parse_bits_list(bits);
  }

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_models(visit, self.models);
    visit.group("Measurement");
    visit("data", self.data,
          "data to measure on; for perplexity token shards (their validation split), or a file of "
          "text, JSON lines or Parquet, which may be in an object store (s3://BUCKET/KEY, "
          "gs://BUCKET/KEY), for benchmarks the folder that holds their files",
          {.value = "PATH", .required = true});
    visit("tasks", self.tasks,
          "perplexity of --data, wikitext2 = perplexity of WikiText-2's test text cut as the "
          "paper's reference does, or names of benchmarks separated by commas; paper = the eleven "
          "benchmarks of the paper",
          {.value = "NAMES"});
    visit(
        "bits", self.bits,
        "number formats W-A-KV of weights, activations and key/value cache to measure at, a list "
        "separated by commas; each 2 to 8 for integers of that many bits, mxfp4, nvfp4 or fp8, or "
        "16 for no quantization (default those of a quantized model dir, else 16-16-16)",
        {.value = "W-A-KV,..."});
    ActivationGroups::fields(visit, self.groups);
    EngineChoice::fields(visit, self.engine);
    PerplexityOptions::fields(visit, self.perplexity);
    visit("precision", self.precision, Choices{{"fp32", "bf16"}},
          "type of products and activations; bf16 is faster, and its rounding is in the result");
    visit("divergence_from", self.divergence_from,
          "model whose 16-bit predictions the Kullback-Leibler divergence is measured from",
          {.value = "MODEL"});
    visit("tax", self.tax,
          "measure the outlier tax as well: the divergence from 16 bits in the model's own basis "
          "minus that in a random one, both with a Hadamard in front of the down projection; of "
          "everything, of the inputs of q, k, v, gate and up (readers) and of those of o and down "
          "(generators); with three rotations about 20 passes over --data for each of --bits");
    visit("rotations", self.rotations, Range{1, 1000},
          "random rotations that the outlier tax is measured with", {.needs = "tax"});
    visit.group("Benchmarks");
    visit("prompts", self.prompts, Choices{{"reference", "lm-eval"}},
          "wording of the prompts: that of the paper's reference code or of lm-evaluation-harness");
    visit("limit", self.limit, Range{0, 1099511627776.0}, "number of items per benchmark; 0 = all");
    visit("out", self.out, "JSON file to write the results to, after every chunk of items",
          {.value = "FILE", .affects_results = false});
    visit("resume", self.resume,
          "results file of an interrupted run, which is continued and completed",
          {.value = "FILE", .affects_results = false});
    visit("table", self.table, "Markdown (.md) or CSV (.csv) file to write one row per model to",
          {.value = "FILE", .affects_results = false});
    visit("save_items", self.save_items,
          "JSON lines file to write every item and the model's answer to",
          {.value = "FILE", .affects_results = false, .formerly = "samples"});
    CommonOptions::fields(visit, self.common);
  }
};

// Both measure, print and return the exit status.
int run_eval_perplexity(const EvalCommand& options);
int run_eval_tasks(const EvalCommand& options);

}  // namespace osp
