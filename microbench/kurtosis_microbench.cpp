// Cost of measuring kurtosis during training: the extra time of a validation beyond its loss
// (kurtosis in both modes, largest activation and attention logit), relative to the training steps
// between two validations at the default interval. Everything runs on the demo's OSP model in bf16,
// in one process; medians.
//   kurtosis_microbench [REPETITIONS [STEPS]]
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <fmt/format.h>

#include <cstdlib>

#include "microbench/timing.h"
#include "osp/bench/speed.h"
#include "osp/measure/outliers.h"
#include "osp/model/transformer.h"
#include "osp/ops/tensor_library.h"

int main(int argc, char** argv) {
  osp::prepare_tensor_library();
  const int repetitions = argc > 1 ? std::atoi(argv[1]) : 5;
  const int64_t steps = argc > 2 ? std::atoll(argv[2]) : 5;
  const osp::Recipe recipe = osp::speed_recipe("demo");
  const osp::TrainConfig& train = recipe.train;
  osp::ParameterStore store =
      osp::make_parameters(osp::resolved_config(recipe.model), {.bf16 = true});
  osp::initialize_parameters(store, 1);
  const int64_t context = recipe.model.context, sequences = train.validation_tokens / context;
  const at::Tensor ids = at::randint(recipe.model.vocabulary, {sequences, context + 1}, at::kLong);
  const at::Tensor tokens = ids.narrow(1, 0, context).contiguous();
  const at::Tensor targets = ids.narrow(1, 1, context).contiguous();
  osp::OutlierOptions options;
  options.targets_BT = targets;
  options.attention_length = context;
  options.batch_tokens = train.micro_batch_sequences * context;
  const at::NoGradGuard no_grad;
  const auto seconds = osp::median_seconds(
      {[&] {
         for (int64_t first = 0; first < sequences; first += train.micro_batch_sequences) {
           const int64_t count = std::min<int64_t>(train.micro_batch_sequences, sequences - first);
           osp::forward_loss_sum(store, tokens.narrow(0, first, count),
                                 targets.narrow(0, first, count))
               .item<double>();
         }
       },
       [&] { osp::measure_outliers(store, tokens, options); }},
      repetitions);
  fmt::print("validation of {} tokens: loss {:.3f} s, with kurtosis {:.3f} s\n",
             sequences * context, seconds[0], seconds[1]);
  for (const int64_t batch_tokens : {osp::TrainConfig().batch_tokens, train.batch_tokens}) {
    osp::Recipe timed = recipe;
    timed.train.batch_tokens = batch_tokens;
    timed.train.micro_batch_sequences = batch_tokens / context;
    const double step =
        static_cast<double>(batch_tokens) / osp::measure_training_speed(timed, steps).tokens_per_s;
    const double between = step * static_cast<double>(train.validate_every);
    fmt::print("steps of {} tokens: {:.3f} s, {} between validations; overhead {:.2f} %\n",
               batch_tokens, step, train.validate_every,
               100 * (seconds[1] - seconds[0]) / (between + seconds[0]));
  }
  return 0;
}
