// Cost of watching outliers during training: the CPU time of a validation beyond its loss (kurtosis
// in both modes, largest activation and attention logit), relative to the training steps between
// two validations, of recipes as they are: model, validation slice, interval, size of a step.
// Random weights and tokens (random tokens are nearly all different, which costs the clipped
// kurtosis most); bf16; everything in turn in one process. Prints JSON with the CPU seconds of
// every round; scripts/measure.sh watching runs it.
//   kurtosis_microbench ROUNDS STEPS RECIPE...
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "osp/base/provenance.h"
#include "osp/base/timing.h"
#include "osp/bench/speed.h"
#include "osp/measure/outliers.h"
#include "osp/model/transformer.h"
#include "osp/ops/result_origin.h"
#include "osp/ops/tensor_library.h"
#include "osp/train/config.h"

namespace {

// CPU time of a training step, the median.
double step_seconds(const osp::Recipe& recipe, int64_t steps) {
  const at::AutoGradMode with_gradients(true);
  return osp::measure_training_speed(recipe, steps).cpu_seconds;
}

osp::Json cost_of(const std::string& path, int rounds, int64_t steps) {
  osp::Recipe recipe = osp::resolved_recipe(osp::load_recipe(path, {}), 0);
  const osp::TrainConfig& train = recipe.train;
  osp::ParameterStore store =
      osp::make_parameters(osp::resolved_config(recipe.model), {.bf16 = true});
  osp::initialize_parameters(store, 1);
  const int64_t context = recipe.model.context, sequences = train.validation_tokens / context;
  const at::Tensor ids = at::randint(recipe.model.vocabulary, {sequences, context + 1}, at::kLong);
  const at::Tensor tokens = ids.narrow(1, 0, context).contiguous();
  const at::Tensor targets = ids.narrow(1, 1, context).contiguous();
  const at::NoGradGuard no_grad;

  // The loss alone, then what validate() measures, part by part.
  osp::OutlierOptions states;
  states.targets_BT = targets;
  states.attention_length = context;
  states.batch_tokens = train.micro_batch_sequences * context;
  states.clipped = false;
  states.attention_sequences = 0;
  osp::OutlierOptions attention = states;
  attention.attention_sequences = osp::OutlierOptions().attention_sequences;
  osp::OutlierOptions all = attention;
  all.clipped = true;
  const auto loss = [&] {
    for (int64_t first = 0; first < sequences; first += train.micro_batch_sequences) {
      const int64_t count = std::min(train.micro_batch_sequences, sequences - first);
      osp::forward_loss_sum(store, tokens.narrow(0, first, count), targets.narrow(0, first, count))
          .item<double>();
    }
  };
  osp::Recipe timed = recipe;
  timed.train.tokens = 0;  // it counts in steps
  // Everything in turn; the first round warms up and is not counted.
  osp::Json measured = osp::Json::array();
  for (int round = 0; round <= rounds; ++round) {
    const auto seconds = [](const auto& work) {
      const double start = osp::process_cpu_seconds();
      work();
      return osp::process_cpu_seconds() - start;
    };
    const osp::Json row{
        {"loss", seconds(loss)},
        {"states", seconds([&] { osp::measure_outliers(store, tokens, states); })},
        {"states_and_attention", seconds([&] { osp::measure_outliers(store, tokens, attention); })},
        {"everything", seconds([&] { osp::measure_outliers(store, tokens, all); })},
        {"step", step_seconds(timed, steps)}};
    if (round > 0) measured.push_back(row);
  }
  return {{"recipe", path},
          {"validate_every", train.validate_every},
          {"batch_tokens", train.batch_tokens},
          {"validation_tokens", sequences * context},
          {"rounds", measured}};
}

}  // namespace

int main(int argc, char** argv) {
  osp::prepare_tensor_library();
  if (argc < 4) {
    fmt::print(stderr, "usage: kurtosis_microbench ROUNDS STEPS RECIPE...\n");
    return 2;
  }
  osp::Json recipes = osp::Json::array();
  for (int i = 3; i < argc; ++i) {
    recipes.push_back(cost_of(argv[i], std::atoi(argv[1]), std::atoll(argv[2])));
    fmt::print(stderr, "{}\n", recipes.back().dump());
  }
  fmt::print("{}\n", osp::Json{{"machine", osp::machine_text()},
                               {"instruction_set", osp::instruction_set_text()},
                               {"threads", at::get_num_threads()},
                               {"recipes", recipes}}
                         .dump());
  return 0;
}
