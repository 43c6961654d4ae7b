// Recipes: everything that a training run depends on, one struct per section of the TOML file.
//
// Tested by osp/train/flops_test.cpp, osp/train/loop_test.cpp and tests/python/test_train.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/fields.h"
#include "osp/base/table_list.h"
#include "osp/model/config.h"
#include "osp/optim/config.h"

namespace osp {

struct RunConfig {
  int64_t seed = 1;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("seed", self.seed, Range{0, 9007199254740992.0},
          "seed of the initial weights and of the data order");
  }
};

// One corpus of several.
struct DataSource {
  std::string name;
  std::string path;
  double weight = 1;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("name", self.name, "name in logs; the last part of the path if omitted");
    visit(
        "path", self.path,
        "folder written by `osp tokenize`, also s3:// or gs:// in an object store, or .bin shards",
        {.affects_results = false});
    visit("weight", self.weight, Range{},
          "part of all sequences that is taken from here, relative to the other sources");
  }
};

struct DataConfig {
  std::string path;
  std::vector<DataSource> sources;
  bool document_mask = false;
  bool verify = true;
  int64_t shuffle_tokens = 0;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit(
        "path", self.path,
        "folder written by `osp tokenize`, also s3:// or gs:// in an object store, or .bin shards",
        {.affects_results = false});
    visit("source", table_list(self.sources, "data.source"),
          "corpora to mix instead of data.path, each with path, weight and optionally name; "
          "[[data.source]] in the recipe");
    visit("document_mask", self.document_mask, "keep attention within a document");
    visit("verify", self.verify, "check the SHA-256 of every shard before it is used",
          {.affects_results = false});
    visit("shuffle_tokens", self.shuffle_tokens, Range{0, 1e15},
          "visit the data in blocks of so many consecutive tokens, shuffled inside and among each "
          "other, so that few shards are in use at a time; 0 = shuffle all tokens as one block");
  }
};

struct TrainConfig {
  int64_t steps = 0;
  int64_t tokens = 0;
  int64_t batch_tokens = 2048;
  int64_t micro_batch_sequences = 0;
  int64_t activation_memory_mb = 1024;
  bool recompute_blocks = false;
  std::string precision = "bf16";
  std::string device = "cpu";
  int64_t log_every = 10;
  double peak_tflops = 0;
  int64_t validate_every = 100;
  int64_t validation_tokens = 65536;
  int64_t sample_every = 0;
  std::string sample_prompt = "The";
  int64_t sample_tokens = 48;
  int64_t checkpoint_every = 200;
  int64_t keep_checkpoints = 2;
  bool background_save = true;
  int64_t max_failed_saves = 3;
  int64_t reduction_groups = 1;
  bool exact_ranks = true;
  std::string reduce_precision = "fp32";
  double bucket_mb = 1;
  double collective_timeout_s = 120;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("steps", self.steps, Range{0, 1e12},
          "number of optimizer steps; 0 = as many as train.tokens needs");
    visit("tokens", self.tokens, Range{0, 1e15},
          "number of tokens to train on, used if train.steps is 0");
    visit("batch_tokens", self.batch_tokens, Range{1, 1e10},
          "tokens per optimizer step, over all micro-batches; a multiple of model.context");
    visit("micro_batch_sequences", self.micro_batch_sequences, Range{0, 1e6},
          "sequences per forward pass; 0 = as many as train.activation_memory_mb holds");
    visit("activation_memory_mb", self.activation_memory_mb, Range{1, 1e7},
          "memory for tensors that the backward pass keeps, in 10^6 bytes");
    visit("recompute_blocks", self.recompute_blocks,
          "keep only the input of each block and recompute the block in the backward pass: a "
          "fraction of the memory, about a fifth more time, identical results; the automatic "
          "micro-batch size does not change",
          {.affects_results = false});
    visit("precision", self.precision, Choices{{"bf16", "fp32"}},
          "precision of the forward and backward pass; master weights are always fp32");
    visit("device", self.device, Choices{{"cpu", "cuda"}}, "device to train on",
          {.affects_results = false});
    visit("log_every", self.log_every, Range{1, 1e9}, "number of steps between lines of the log");
    visit("peak_tflops", self.peak_tflops, Range{0, 1e6},
          "peak speed that counts as 100 % in mfu, in 10^12 FLOP/s; 0 = measure the fastest matrix "
          "product for half a second");
    visit("validate_every", self.validate_every, Range{0, 1e9},
          "number of steps between validations; 0 = only at the end");
    visit("validation_tokens", self.validation_tokens, Range{0, 1e10},
          "size of the fixed validation slice in tokens; 0 = no validation");
    visit("sample_every", self.sample_every, Range{0, 1e9},
          "number of steps between samples of generated text; 0 = no samples");
    visit("sample_prompt", self.sample_prompt, "prompt that each sample of text continues");
    visit("sample_tokens", self.sample_tokens, Range{1, 4096},
          "length of each sample of text in tokens");
    visit("checkpoint_every", self.checkpoint_every, Range{0, 1e9},
          "number of steps between checkpoints; 0 = only at the end", {.affects_results = false});
    visit("keep_checkpoints", self.keep_checkpoints, Range{2, 1e6},
          "number of newest checkpoints to keep", {.affects_results = false});
    visit("background_save", self.background_save,
          "write checkpoints from a copy while training continues", {.affects_results = false});
    visit("max_failed_saves", self.max_failed_saves, Range{1, 1000},
          "number of failed saves in a row that ends the run (exit 5)", {.affects_results = false});
    visit("reduction_groups", self.reduction_groups, Range{1, 65536},
          "groups of a step's sequences whose gradients are added in a fixed tree: the run has the "
          "same bits on any number of ranks up to that number");
    visit(
        "exact_ranks", self.exact_ranks,
        "false: each rank adds up all of its sequences by itself, without groups, which is faster; "
        "runs on different numbers of ranks are then equal up to rounding only");
    visit(
        "reduce_precision", self.reduce_precision, Choices{{"fp32", "bf16"}},
        "precision of the gradients that ranks send to each other; bf16 halves these bytes, rounds "
        "each rank's sum once (the sum over ranks is made in fp32), and needs train.exact_ranks = "
        "false");
    visit(
        "bucket_mb", self.bucket_mb, Range{0, 1e6},
        "gradients that are sent to their owners together while the backward pass goes on, in 10^6 "
        "bytes of fp32; 0 = those of each block as it ends",
        {.affects_results = false});
    visit("collective_timeout_s", self.collective_timeout_s, Range{1, 86400},
          "seconds that a rank waits for the others before the run ends (exit 5)",
          {.affects_results = false});
  }
};

struct GuardConfig {
  double loss_z = 0;
  double gradient_norm_z = 0;
  int64_t window = 100;
  int64_t max_consecutive_skips = 10;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("loss_z", self.loss_z, Range{0, 1e6},
          "skip a step whose loss is more than this many standard deviations above the mean of "
          "guard.window; 0 = never");
    visit(
        "gradient_norm_z", self.gradient_norm_z, Range{0, 1e6},
        "skip a step whose gradient norm is more than this many standard deviations above the mean "
        "of guard.window; 0 = never");
    visit("window", self.window, Range{8, 1e6},
          "number of accepted steps that a loss or gradient norm is compared with");
    visit("max_consecutive_skips", self.max_consecutive_skips, Range{1, 1e6},
          "number of skipped steps in a row that ends the run as diverged (exit 4)");
  }
};

// Quantization-aware training (osp/quant/qat.h).
struct QatConfig {
  std::string bits = "16-16-16";
  std::string points = "all";  // see parse_input_points()
  std::string start = "step";
  int64_t start_step = 0;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("bits", self.bits,
          "bit widths W-A-KV of weights, activations and key/value cache in the training forward "
          "pass; each 2 to 8, or 16 for no quantization");
    visit("points", self.points,
          "inputs of linear layers that are quantized; all, or names separated by commas: "
          "attention_input (of q, k, v), attention_output (of o), mlp_input (of gate, up), "
          "mlp_product (of down)");
    visit("start", self.start, Choices{{"step", "decay"}},
          "when quantization begins: after qat.start_step steps, or with the decay of the learning "
          "rate");
    visit("start_step", self.start_step, Range{0, 1e12},
          "number of steps to train without quantization first");
  }
};

struct Recipe {
  RunConfig run;
  DataConfig data;
  ModelConfig model;
  OptimConfig optim;
  ScheduleConfig schedule;
  TrainConfig train;
  GuardConfig guard;
  QatConfig qat;
};

// All fields of a recipe; it must outlive the table.
FieldTable recipe_table(Recipe& recipe);

// Defaults, then the TOML file with what it inherits, then the assignments "section.key=value".
Recipe load_recipe(const std::string& path, const std::vector<std::string>& assignments);

// Fills in the derived values: the vocabulary from the data (0: unknown), model sizes, steps, the
// micro-batch. Error(usage) for sizes that contradict each other.
Recipe resolved_recipe(Recipe recipe, int64_t data_vocabulary);

Json recipe_json(const Recipe& recipe);

// The corpora of a recipe: its data.source with all names, or the one at data.path, without a name.
// Error(usage) for both, or for names that are not different.
std::vector<DataSource> sources_of(const DataConfig& data);

// Hash of every field that decides the run's numbers or the lines of its log. The paths of the data
// (its fingerprint counts instead) and the fields about checkpoints do not.
std::string recipe_hash(const Recipe& recipe);

// The hashed fields in which two recipes differ: "optim.lr (0.003 there, 0.5 here), …", or "". A
// field that `there` lacks, because the program that wrote it did not know it, has its default
// there. The length of the run (train.steps, train.tokens) does not count: a run can be extended.
std::string recipe_differences(const Json& there, const Recipe& here);

// Steps of a resolved recipe before its quantization begins.
int64_t steps_before_qat(const Recipe& recipe);

// Sequences of a step.
int64_t sequences_per_step(const Recipe& recipe);

// Groups of a step's sequences: train.reduction_groups, or one per rank without train.exact_ranks.
int64_t groups_of_step(const Recipe& recipe, int64_t ranks);

// Bytes that the backward pass of one sequence keeps. An estimate: per token and layer the residual
// state twice, the two branches before their scalars, q, k, v, the attention output, gate and up,
// in the compute type; with quantization-aware training also the quantized inputs of the linear
// layers, keys and values. With recompute_blocks the residual state of every layer and the rest of
// one. It counts the tensors that the CPU's operators keep; other devices also keep the results of
// norms and of SwiGLU.
double activation_bytes_per_sequence(const Recipe& recipe);

}  // namespace osp
