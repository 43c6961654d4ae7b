#include "osp/train/flops.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

#include "osp/base/timing.h"
#include "osp/model/parameters.h"
#include "osp/optim/adamw.h"
#include "osp/optim/optimizers.h"
#include "osp/train/device.h"

namespace osp {
namespace {

constexpr int kLeastProducts = 6;
constexpr double kMeasuring_s = 0.5;

// The program with the tensor library, before any tensor.
constexpr double kProgramBytes = 200e6;

// What the backward pass needs beside the tensors that it keeps. Measured on models of 2 to 12
// layers and 6 to 50 M parameters: four times what one block keeps, and an eighth of all that is
// kept, which the allocator loses between blocks of memory of different size. Attention in fp32 has
// five tensors of all scores of a layer.
double backward_temporaries(const Recipe& recipe, double activations) {
  const ModelConfig& model = recipe.model;
  Recipe kept = recipe;
  kept.train.recompute_blocks = false;
  const auto sequences = static_cast<double>(recipe.train.micro_batch_sequences);
  const double block = activation_bytes_per_sequence(kept) * sequences /
                       static_cast<double>(std::max<int64_t>(model.layers, 1));
  const double scores = recipe.train.precision == "bf16"
                            ? 0.0
                            : 5.0 * 4.0 * sequences * static_cast<double>(model.heads) *
                                  static_cast<double>(model.context * model.context);
  return 4.0 * block + activations / 8.0 + scores;
}

}  // namespace

double count(const ParameterSpec& spec) {
  return std::accumulate(spec.shape.begin(), spec.shape.end(), 1.0, std::multiplies<>());
}

double model_flops_per_token(const ModelConfig& model) {
  double weights = 0;
  for (const ParameterSpec& spec : parameter_specs(model)) {
    const bool is_lookup = spec.kind == ParameterKind::embedding && !model.tied;
    if (spec.kind != ParameterKind::gain && !is_lookup) weights += count(spec);
  }
  return 6.0 * weights + 6.0 * static_cast<double>(model.layers * model.heads * model.head_size) *
                             static_cast<double>(model.context);
}

double measured_flops_per_s(const std::string& precision, const std::string& device) {
  const int64_t size = device == "cpu" ? 1024 : 8192;
  const at::Tensor x =
      at::ones({size, size}, at::TensorOptions()
                                 .dtype(precision == "bf16" ? at::kBFloat16 : at::kFloat)
                                 .device(open_device(device)));
  double best_s = 1e9;
  const double begin = clock_seconds();
  for (int done = 0; done < kLeastProducts || clock_seconds() - begin < kMeasuring_s; ++done) {
    const double start = clock_seconds();
    const at::Tensor product = at::mm(x, x);
    // Reading one element waits for the device.
    product.select(0, 0).select(0, 0).item<double>();
    best_s = std::min(best_s, clock_seconds() - start);
  }
  return 2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size) /
         best_s;
}

PeakRate::PeakRate(double given_flops_per_s, std::function<double()> measure) {
  if (given_flops_per_s == 0) measure_ = std::move(measure);
  flops_per_s_ = measure_ ? measure_() : given_flops_per_s;
}

double PeakRate::share(double flops_per_s) {
  if (measure_ && flops_per_s > flops_per_s_) flops_per_s_ = std::max(flops_per_s, measure_());
  return flops_per_s / flops_per_s_;
}

MemoryEstimate estimate_memory(const Recipe& recipe, const Routing& routing) {
  MemoryEstimate memory{.program = kProgramBytes};
  const std::vector<ParameterSpec> specs = parameter_specs(recipe.model);
  const TrainConfig& train = recipe.train;
  const bool saves_meanwhile =
      train.background_save && train.checkpoint_every > 0 && train.checkpoint_every < train.steps;
  for (size_t i = 0; i < specs.size(); ++i) {
    const double scalars = count(specs[i]);
    const OptimizerGroup& group = routing.groups[size_t(routing.group_of[i])];
    memory.weights += scalars * (train.precision == "bf16" ? 6 : 4);
    memory.gradients += scalars * 4;
    memory.optimizer += optimizer_state_bytes(group, specs[i].shape, recipe.optim);
    // Adam's weights before an update whose norm is measured; half of them find room in what the
    // backward pass has freed.
    if (group.optimizer == &kAdamRow) memory.temporaries += scalars * 2;
    if (saves_meanwhile) memory.snapshot += scalars * 4;
  }
  if (saves_meanwhile) memory.snapshot += memory.optimizer;
  memory.activations =
      activation_bytes_per_sequence(recipe) * static_cast<double>(train.micro_batch_sequences);
  memory.temporaries += backward_temporaries(recipe, memory.activations);
  return memory;
}

Json describe_run(const Recipe& recipe) {
  const std::vector<ParameterSpec> specs = parameter_specs(recipe.model);
  const Routing routing = route_parameters(specs, recipe.optim, recipe.model.head_size);
  const MemoryEstimate memory = estimate_memory(recipe, routing);
  double parameters = 0;
  for (const ParameterSpec& spec : specs) parameters += count(spec);
  const double flops = model_flops_per_token(recipe.model);
  return {{"recipe", recipe_json(recipe)},
          {"recipe_hash", recipe_hash(recipe)},
          {"parameters", int64_t(parameters)},
          {"routing", routing_json(specs, routing, recipe.optim)},
          {"routing_table", routing_table(specs, routing, recipe.optim)},
          {"steps", recipe.train.steps},
          {"tokens", recipe.train.tokens},
          {"micro_batch_sequences", recipe.train.micro_batch_sequences},
          {"flops_per_token", flops},
          {"flops", flops * static_cast<double>(recipe.train.tokens)},
          {"memory_bytes",
           {{"program", memory.program},
            {"weights", memory.weights},
            {"gradients", memory.gradients},
            {"optimizer", memory.optimizer},
            {"activations", memory.activations},
            {"temporaries", memory.temporaries},
            {"snapshot", memory.snapshot},
            {"total", memory.total()}}}};
}

}  // namespace osp
