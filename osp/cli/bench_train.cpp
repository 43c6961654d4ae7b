// osp bench train: training speed and memory beside PyTorch, in turn, each in a process of its own,
// so that peak memory is separate. The peer is bench/peers/train_torch.py in the fastest way to run
// it (osp/bench/train_bench.h).
#include <ATen/Parallel.h>

#include <memory>

#include "osp/base/error.h"
#include "osp/bench/train_bench.h"
#include "osp/cli/command.h"
#include "osp/ops/result_origin.h"

namespace osp {
namespace {

struct BenchTrainCommand {
  CommonOptions common;
  std::string model = "all";
  int64_t context = 0;
  TurnOptions turn = {.steps = 5, .peer = "bench/peers/train_torch.py"};
  std::vector<std::string> assignments;
  std::string peer_mode = "fastest";
  bool alone = false;
  bool profile = false;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Model");
    visit("model", self.model, Choices{{"demo", "50m", "125m", "all"}},
          "model to train; demo = that of recipes/demo-7m-osp.toml, all = demo and 50m");
    visit("context", self.context, Range{0, 8192}, "length of a sequence; 0 = the model's own",
          {.unit = "tokens"});
    visit("set", self.assignments,
          "section.key=value of a recipe, as for osp train; needs --alone or --profile",
          {.value = "KEY=VALUE"});
    visit.group("Measuring");
    visit(
        "peer_mode", self.peer_mode, Choices{{"fastest", "eager", "compile", "max-autotune"}},
        "how PyTorch runs: eager or through torch.compile; fastest = what is faster here, found by "
        "trials");
    visit("alone", self.alone, "time osp in this process, without the peer");
    visit("profile", self.profile,
          "print the time of osp's step by operator instead, without the peer");
    TurnOptions::fields(visit, self.turn);
    CommonOptions::fields(visit, self.common);
  }
};

// The part that is timed, in a process of its own.
int time_training_alone(const BenchTrainCommand& options) {
  const Recipe recipe = speed_recipe(options.model, options.context, options.assignments);
  const TrainingSpeed speed = measure_training_speed(recipe, options.turn.steps, options.profile);
  if (options.profile && !options.common.json) {
    print_out("{}", profile_table(speed));
  } else {
    print_json(training_speed_json(speed, recipe.model.context, options.profile));
  }
  return 0;
}

// All repetitions of both sides on one model.
Json bench_training(const BenchTrainCommand& options, const std::string& model, Console& console) {
  const Recipe recipe = speed_recipe(model, options.context, {});
  const TrainingBench bench{model, options.context,
                            recipe.train.batch_tokens / recipe.model.context};
  // The fastest peer.
  std::vector<std::string> modes(std::begin(kTrainingPeerModes), std::end(kTrainingPeerModes));
  if (options.peer_mode != "fastest") modes = {options.peer_mode};
  const auto measure = [&](const TrainingPeer& peer) {
    const double rate = run_training_peer(options.turn, bench, peer)["tokens_per_s"].get<double>();
    console.line("{}: peer ({}) {:.0f} tokens/s", model, peer.text(), rate);
    return rate;
  };
  const TunedTrainingPeer tuned = tune_training_peer(modes, bench.sequences, measure);
  // In turn.
  std::vector<TrainingRuns> all;
  for (int64_t i = 0; i < options.turn.repetitions; ++i) {
    all.push_back(run_training_sides(options.turn, bench, tuned.peer));
    console.line("{} {}/{}: {:.0f} tokens/s, peer {:.0f}", model, i + 1, options.turn.repetitions,
                 all.back().ours["tokens_per_s"].get<double>(),
                 all.back().peer["tokens_per_s"].get<double>());
  }
  return summarize_training(bench, tuned, all);
}

int run_bench_train(const BenchTrainCommand& options) {
  options.turn.use_threads();
  if (options.profile && options.model == "all") {
    fail(ErrorCode::usage, "--profile is of one --model: demo, 50m or 125m");
  }
  if (options.alone || options.profile) {
    refuse_given(options.common, {"peer_mode", "repetitions", "python", "peer"},
                 "is about the comparison with the peer, which --alone and --profile leave out");
    return time_training_alone(options);
  }
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
    print_out("{}", training_table(models));
    return 0;
  }
  Json result = models[0];  // the first model's numbers at the top level, all in `models`
  record_timed_origin(result);
  result["steps"] = options.turn.steps;
  result["repetitions"] = options.turn.repetitions;
  result["threads"] = at::get_num_threads();
  result["models"] = models;
  print_json(result);
  return 0;
}

}  // namespace

void add_bench_train(Command& bench) {
  bench.part<BenchTrainCommand>("train", "compare the training step with PyTorch", run_bench_train);
}

}  // namespace osp
