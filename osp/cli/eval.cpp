// osp eval: perplexity or benchmarks of models at given widths of weights, activations and cache.
#include "osp/base/error.h"
#include "osp/cli/eval_command.h"
#include "osp/eval/task.h"

namespace osp {
namespace {

// Refuses what only benchmarks can do.
void check_perplexity(const EvalCommand& options) {
  if (options.tasks != "perplexity") parse_tasks(options.tasks);  // names the unknown one
  if (options.models.size() > 1) {
    fail(ErrorCode::usage,
         "{} models: perplexity is measured for one model; benchmarks (--tasks) for several",
         options.models.size());
  }
  if (!options.out.empty() || !options.resume.empty() || !options.table.empty() ||
      !options.save_items.empty() || options.limit > 0) {
    fail(ErrorCode::usage,
         "--out, --resume, --table, --save-items (formerly --samples) and --limit are for "
         "benchmarks; name some with --tasks");
  }
}

int run(const EvalCommand& options) {
  if (!names_benchmark(options.tasks)) {
    check_perplexity(options);
    return run_eval_perplexity(options);
  }
  if (options.perplexity.stride > 0 || !options.divergence_from.empty() || options.tax) {
    fail(ErrorCode::usage,
         "--stride, --divergence-from and --tax are for perplexity, not for benchmarks");
  }
  if (options.groups.any()) {
    fail(ErrorCode::usage,
         "--activation-group and --down-group are for perplexity; for benchmarks give the folder "
         "that osp quantize wrote with them");
  }
  return run_eval_tasks(options);
}

}  // namespace

void add_eval(CommandLine& line) {
  line.command<EvalCommand>(
      "eval", "measure perplexity or benchmark scores of models at given bit widths", run);
}

}  // namespace osp
