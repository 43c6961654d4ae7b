// osp bench train: training speed and memory beside PyTorch, in turn, each in a process of its own,
// so that peak memory is separate. The peer is bench/peers/train_eager.py, as it is and, if wanted,
// through torch.compile; ratios are to the faster of the two (osp/bench/train_bench.h).
#include <ATen/Parallel.h>

#include <memory>

#include "osp/base/error.h"
#include "osp/base/provenance.h"
#include "osp/bench/train_bench.h"
#include "osp/cli/command.h"
#include "osp/cli/turn_options.h"

namespace osp {
namespace {

struct BenchTrainArguments {
  CommonOptions common;
  std::string model = "all";
  int64_t context = 0;
  TurnOptions turn = {.steps = 5, .peer = "bench/peers/train_eager.py"};
  std::vector<std::string> assignments;
  bool compile = false;
  bool alone = false;
  bool profile = false;
};

// The part that is timed, in a process of its own.
int time_training_alone(const BenchTrainArguments& options) {
  const Recipe recipe = speed_recipe(options.model, options.context, options.assignments);
  const TrainingSpeed speed = measure_training_speed(recipe, options.turn.steps, options.profile);
  if (options.profile && !options.common.json) {
    fmt::print("{}", profile_table(speed));
  } else {
    print_json(training_speed_json(speed, recipe.model.context, options.profile));
  }
  return 0;
}

// All repetitions of both sides on one model.
Json bench_training(const BenchTrainArguments& options, const std::string& model,
                    Console& console) {
  std::vector<TrainingRuns> all;
  for (int64_t i = 0; i < options.turn.repetitions; ++i) {
    all.push_back(run_training_sides(options.turn, model, options.context, options.compile));
    console.line("{} {}/{}: {:.0f} tokens/s, peer {:.0f}", model, i + 1, options.turn.repetitions,
                 all.back().ours["tokens_per_s"].get<double>(),
                 all.back().faster_peer()["tokens_per_s"].get<double>());
  }
  return summarize_training(model, all);
}

int run_bench_train(const BenchTrainArguments& options) {
  options.turn.use_threads();
  if (options.profile && options.model == "all") {
    fail(ErrorCode::usage, "--profile is of one --model: demo, 50m or 125m");
  }
  if (options.alone || options.profile) return time_training_alone(options);
  if (!options.assignments.empty()) {
    fail(ErrorCode::usage,
         "--set changes osp's model and not the peer's: give --alone or --profile");
  }
  check_peer(options.turn.python, options.turn.peer);
  Console console(options.common.quiet);
  std::vector<std::string> names = {"demo", "50m"};
  if (options.model != "all") names = {options.model};
  Json models = Json::array();
  for (const std::string& name : names) models.push_back(bench_training(options, name, console));
  if (!options.common.json) {
    fmt::print("{}", training_table(models));
    return 0;
  }
  Json result = models[0];  // the first model's numbers at the top level, all in `models`
  record_provenance(result);
  result["steps"] = options.turn.steps;
  result["repetitions"] = options.turn.repetitions;
  result["threads"] = at::get_num_threads();
  result["models"] = models;
  print_json(result);
  return 0;
}

}  // namespace

void add_bench_train(Command& bench) {
  auto options = std::make_shared<BenchTrainArguments>();
  Command train = bench.part("train", "the training step beside PyTorch");
  add_common_options(train, options->common);
  train.add("--model", options->model, "demo, 50m, 125m, or all: the first two")
      .one_of({"demo", "50m", "125m", "all"});
  train.add("--context", options->context, "tokens of a sequence; 0: the model's own")
      .between(int64_t{0}, int64_t{8192});
  add_turn_options(train, options->turn);
  train.add("--compile", options->compile,
            "also time the peer through torch.compile; ratios are to the faster of the two");
  train.add("--set", options->assignments,
            "with --alone or --profile: section.key=value of a recipe, as for osp train");
  train.add("--alone", options->alone, "time osp in this process, without the peer");
  train.add("--profile", options->profile,
            "the time of osp's step by operator instead, without the peer");
  train.runs([options] { return run_bench_train(*options); });
}

}  // namespace osp
