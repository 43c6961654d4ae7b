// osp eval: perplexity or benchmarks of models at given widths of weights, activations and cache.
#include "osp/base/error.h"
#include "osp/cli/eval_command.h"
#include "osp/eval/task.h"

namespace osp {
namespace {

// Refuses what only benchmarks can do.
void check_perplexity(const EvalCommand& options) {
  if (options.tasks != "perplexity" && options.tasks != "wikitext2")
    parse_tasks(options.tasks);  // names the unknown one
  if (options.models.size() > 1) {
    fail(ErrorCode::usage,
         "{} models: perplexity is measured for one model; benchmarks (--tasks) for several",
         options.models.size());
  }
  refuse_given(options.common, {"out", "resume", "table", "save_items", "limit", "prompts"},
               "is for benchmarks, which --tasks names");
  for (const BitWidths& bits : options.widths()) {
    if (!options.groups.any() || !bits.activations.is_float()) continue;
    fail(ErrorCode::usage,
         "--activation-group or --down-group with --bits {}: the format {} says which numbers "
         "share a "
         "scale; leave the groups out",
         bits.text(), bits.activations.text());
  }
}

// Refuses what only perplexity has.
void check_benchmarks(const EvalCommand& options) {
  refuse_given(options.common, {"stride", "divergence_from", "tax", "rotations", "data_tokens"},
               "is for perplexity, not for benchmarks");
  refuse_given(options.common, {"activation_group", "down_group"},
               "is for perplexity; for benchmarks give the folder that osp quantize wrote with it");
  if (!options.resume.empty()) {
    refuse_given(options.common, {"out"}, "--resume goes on in the file that it names");
  }
}

int run(const EvalCommand& options) {
  if (options.common.is_given("bits")) parse_bits_list(options.bits);  // report a mistake first
  if (!names_benchmark(options.tasks)) {
    check_perplexity(options);
    return run_eval_perplexity(options);
  }
  check_benchmarks(options);
  return run_eval_tasks(options);
}

}  // namespace

void add_eval(CommandLine& line) {
  line.command<EvalCommand>(
      "eval", "measure perplexity or benchmark scores of models at given bit widths", run);
}

}  // namespace osp
