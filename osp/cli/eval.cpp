// osp eval: perplexity or benchmarks of models at given widths of weights, activations and cache.
#include <memory>

#include "osp/base/error.h"
#include "osp/cli/command.h"
#include "osp/cli/eval_perplexity.h"
#include "osp/cli/eval_tasks.h"
#include "osp/eval/task.h"

namespace osp {
namespace {

struct EvalArguments : MeasureOptions {
  std::string tasks = "perplexity";
  std::string bits = "16-16-16";
  std::vector<std::string> models;
  // Of perplexity alone.
  std::string divergence_from;
  int64_t stride = 0;
  // Of benchmarks alone.
  std::string prompts = "reference", out, resume, table, samples;
  int64_t limit = 0;
};

// Perplexity is measured of one model on its own.
void check_perplexity(const EvalArguments& options) {
  if (options.tasks != "perplexity") parse_tasks(options.tasks);  // names the unknown one
  if (options.models.size() > 1) {
    fail(ErrorCode::usage, "{} models: perplexity is measured of one; benchmarks (--tasks) of many",
         options.models.size());
  }
  if (!options.out.empty() || !options.resume.empty() || !options.table.empty() ||
      !options.samples.empty() || options.limit > 0) {
    fail(ErrorCode::usage,
         "--out, --resume, --table, --samples and --limit belong to benchmarks; name some with "
         "--tasks");
  }
}

int run_perplexity(const EvalArguments& options) {
  check_perplexity(options);
  return run_eval_perplexity({.model = options.models.front(),
                              .data = options.data,
                              .bits = options.bits,
                              .divergence_from = options.divergence_from,
                              .max_tokens = options.max_tokens,
                              .stride = options.stride,
                              .bits_given = options.bits != EvalArguments().bits,
                              .quiet = options.common.quiet,
                              .json = options.common.json});
}

int run(const EvalArguments& options) {
  if (!names_benchmark(options.tasks)) return run_perplexity(options);
  if (options.stride > 0 || !options.divergence_from.empty()) {
    fail(ErrorCode::usage,
         "--stride and --divergence-from belong to perplexity, not to benchmarks");
  }
  return run_eval_tasks({.models = options.models,
                         .tasks = options.tasks,
                         .bits = options.bits,
                         .data = options.data,
                         .prompts = options.prompts,
                         .out = options.out,
                         .resume = options.resume,
                         .table = options.table,
                         .samples = options.samples,
                         .bits_given = options.bits != EvalArguments().bits,
                         .limit = options.limit,
                         .quiet = options.common.quiet,
                         .json = options.common.json});
}

}  // namespace

void add_eval(CommandLine& line) {
  auto options = std::make_shared<EvalArguments>();
  Command command =
      line.command("eval", "perplexity or benchmarks of models, also with fewer bits");
  add_common_options(command, options->common);
  command.add("model", options->models, "model dirs, checkpoints or finished runs").required();
  command
      .add("--data", options->data,
           "of perplexity: token shards or a text file; of benchmarks: the folder they are in")
      .required();
  command
      .add("--max-tokens", options->max_tokens,
           "of perplexity: the whole windows of the first N tokens; 0: all")
      .between(int64_t{0}, int64_t{1} << 40);
  command
      .add("--stride", options->stride,
           "of perplexity: tokens from one window to the next, so that they overlap; 0: none do")
      .between(int64_t{0}, int64_t{1} << 40);
  command.add("--divergence-from", options->divergence_from,
              "of perplexity: also the Kullback-Leibler divergence from this model at 16 bits");
  command.add("--tasks", options->tasks,
              "perplexity, or benchmarks by commas; paper: all eleven of the paper");
  command.add("--prompts", options->prompts, "of benchmarks: reference or lm-eval")
      .one_of({"reference", "lm-eval"});
  command.add("--limit", options->limit, "items of each benchmark; 0: all")
      .between(int64_t{0}, int64_t{1} << 40);
  command.add("--out", options->out, "keep the results of benchmarks in this JSON file");
  command.add("--resume", options->resume, "go on with such a file after a stop");
  command.add("--table", options->table, "write one row per model to this .md or .csv file");
  command.add("--samples", options->samples,
              "write every item of benchmarks and its answer to this file, one JSON line each");
  command.add("--bits", options->bits,
              "weights-activations-cache, a list by commas; each 2 to 8, or 16 for none");
  command.runs([options] { return run(*options); });
}

}  // namespace osp
