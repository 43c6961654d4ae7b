// osp bench train: training speed and memory beside PyTorch, in turn, each in a process of its own,
// so that peak memory is separate. The peer is bench/peers/train_eager.py, as it is and, if wanted,
// through torch.compile; ratios are to the faster of the two.
#include <ATen/Parallel.h>

#include <memory>

#include "osp/base/error.h"
#include "osp/base/provenance.h"
#include "osp/base/timing.h"
#include "osp/bench/child.h"
#include "osp/bench/speed.h"
#include "osp/cli/command.h"
#include "osp/cli/turn_options.h"
#include "osp/train/flops.h"

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

// One run of each side.
struct TrainingRuns {
  Json ours, eager;
  Json compiled;  // null unless wanted

  const Json& faster_peer() const {
    const bool eager_wins = compiled.is_null() || eager["tokens_per_s"].get<double>() >=
                                                      compiled["tokens_per_s"].get<double>();
    return eager_wins ? eager : compiled;
  }
};

// Time by operator, the most expensive first; what is below a thousandth of the step is summed up.
void print_profile(const TrainingSpeed& speed) {
  fmt::print("{:<44} {:>7} {:>10} {:>7}\n", "operator", "calls", "ms a step", "share");
  double listed = 0;
  const auto row = [&](const std::string& name, const std::string& calls, double seconds) {
    fmt::print("{:<44} {:>7} {:>10.2f} {:>5.1f} %\n", name, calls, 1e3 * seconds,
               100 * seconds / speed.step_seconds);
  };
  for (const OpTime& time : speed.operators) {
    if (time.seconds < 1e-3 * speed.step_seconds) break;
    row(time.name, std::to_string(time.calls), time.seconds);
    listed += time.seconds;
  }
  row("everything else", "", speed.step_seconds - listed);
}

Json profile_json(const TrainingSpeed& speed) {
  Json operators = Json::array();
  for (const OpTime& time : speed.operators) {
    operators.push_back({{"name", time.name}, {"calls", time.calls}, {"seconds", time.seconds}});
  }
  return operators;
}

// The part that is timed, in a process of its own.
int run_alone(const BenchTrainArguments& options) {
  const Recipe recipe = speed_recipe(options.model, options.context, options.assignments);
  const TrainingSpeed speed = measure_training_speed(recipe, options.turn.steps, options.profile);
  if (options.profile && !options.common.json) {
    print_profile(speed);
    return 0;
  }
  Json result;
  result["tokens_per_s"] = speed.tokens_per_s;
  result["peak_memory_bytes"] = speed.peak_memory_bytes;
  result["loss"] = speed.loss;
  result["parameters"] = speed.parameters;
  result["context"] = recipe.model.context;
  result["batch_tokens"] = speed.batch_tokens;
  result["step_seconds"] = speed.step_seconds;
  result["data_seconds"] = speed.data_seconds;
  result["optimizer_seconds"] = speed.optimizer_seconds;
  result["page_faults"] = speed.page_faults;
  result["model_flops_per_s"] = speed.model_flops_per_s;
  result["product_flops_per_s"] = speed.product_flops_per_s;
  if (options.profile) result["operators"] = profile_json(speed);
  print_json(result);
  return 0;
}

TrainingRuns run_each(const BenchTrainArguments& options, const std::string& model) {
  const std::vector<std::string> turn = options.turn.words();
  const auto run = [&](std::vector<std::string> command) {
    command.insert(command.end(), {"--model", model, "--context", std::to_string(options.context)});
    command.insert(command.end(), turn.begin(), turn.end());
    return run_child(command);
  };
  TrainingRuns runs;
  runs.ours = run({own_program(), "bench", "train", "--alone"});
  runs.eager = run({options.turn.python, options.turn.peer});
  if (options.compile) runs.compiled = run({options.turn.python, options.turn.peer, "--compile"});
  return runs;
}

// Medians over repetitions; the ratios are medians of the ratios of each repetition.
Json summarize(const std::string& model, const std::vector<TrainingRuns>& all) {
  const auto median_of = [&](const auto& value) {
    std::vector<double> values;
    for (const TrainingRuns& runs : all) values.push_back(value(runs));
    return median(values);
  };
  const auto ours = [](const char* key) {
    return [key](const TrainingRuns& runs) { return runs.ours[key].get<double>(); };
  };
  const auto peer = [](const char* key) {
    return [key](const TrainingRuns& runs) { return runs.faster_peer()[key].get<double>(); };
  };
  const auto ratio = [&](const char* key) {
    return median_of([&](const TrainingRuns& runs) { return ours(key)(runs) / peer(key)(runs); });
  };
  Json result;
  result["model"] = model;
  result["parameters"] = all[0].ours["parameters"];
  result["context"] = all[0].ours["context"];
  result["tokens_per_s"] = median_of(ours("tokens_per_s"));
  result["peer_tokens_per_s"] = median_of(peer("tokens_per_s"));
  result["ratio"] = ratio("tokens_per_s");
  result["peak_memory_bytes"] = median_of(ours("peak_memory_bytes"));
  result["peer_peak_memory_bytes"] = median_of(peer("peak_memory_bytes"));
  result["peak_memory_ratio"] = ratio("peak_memory_bytes");
  result["share_of_product_rate"] = median_of([&](const TrainingRuns& runs) {
    return ours("model_flops_per_s")(runs) / ours("product_flops_per_s")(runs);
  });
  if (!all[0].compiled.is_null()) {
    const auto rate = [&](Json TrainingRuns::*side) {
      return median_of([side](const TrainingRuns& runs) {
        return (runs.*side)["tokens_per_s"].template get<double>();
      });
    };
    result["eager_tokens_per_s"] = rate(&TrainingRuns::eager);
    result["compiled_tokens_per_s"] = rate(&TrainingRuns::compiled);
  }
  return result;
}

void print_table(const Json& models) {
  fmt::print("{:<6} {:>8} {:>12} {:>13} {:>14} {:>6} {:>10} {:>10} {:>6} {:>11}\n", "model",
             "context", "parameters", "osp tokens/s", "peer tokens/s", "ratio", "osp peak",
             "peer peak", "ratio", "of products");
  for (const Json& m : models) {
    fmt::print(
        "{:<6} {:>8} {:>12} {:>13.0f} {:>14.0f} {:>6.2f} {:>10} {:>10} {:>6.2f} {:>9.0f} %\n",
        m["model"].get<std::string>(), m["context"].get<int64_t>(),
        format_count(m["parameters"].get<int64_t>()), m["tokens_per_s"].get<double>(),
        m["peer_tokens_per_s"].get<double>(), m["ratio"].get<double>(),
        format_bytes(m["peak_memory_bytes"].get<double>()),
        format_bytes(m["peer_peak_memory_bytes"].get<double>()),
        m["peak_memory_ratio"].get<double>(), 100 * m["share_of_product_rate"].get<double>());
  }
}

int run_bench_train(const BenchTrainArguments& options) {
  options.turn.use_threads();
  if (options.profile && options.model == "all") {
    fail(ErrorCode::usage, "--profile is of one --model: demo, 50m or 125m");
  }
  if (options.alone || options.profile) return run_alone(options);
  if (!options.assignments.empty()) {
    fail(ErrorCode::usage,
         "--set changes osp's model and not the peer's: give --alone or --profile");
  }
  check_peer(options.turn.python, options.turn.peer);
  Console console(options.common.quiet);
  std::vector<std::string> names = {"demo", "50m"};
  if (options.model != "all") names = {options.model};
  Json models = Json::array();
  for (const std::string& name : names) {
    std::vector<TrainingRuns> all;
    for (int64_t i = 0; i < options.turn.repetitions; ++i) {
      all.push_back(run_each(options, name));
      console.line("{} {}/{}: {:.0f} tokens/s, peer {:.0f}", name, i + 1, options.turn.repetitions,
                   all.back().ours["tokens_per_s"].get<double>(),
                   all.back().faster_peer()["tokens_per_s"].get<double>());
    }
    models.push_back(summarize(name, all));
  }
  if (!options.common.json) {
    print_table(models);
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
