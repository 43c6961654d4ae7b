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
#include "osp/ranks/owners.h"
#include "osp/ranks/reduction.h"
#include "osp/train/device.h"

namespace osp {
namespace {

constexpr int kLeastProducts = 6;
constexpr double kMeasuring_s = 0.5;

// The program with the tensor library, before any tensor; and a rank, which Python starts: its
// module of PyTorch alone takes 430 MB more than the library.
constexpr double kProgramBytes = 200e6;
constexpr double kRankBytes = 630e6;

// Memory of the backward pass beside the tensors that it keeps. Measured on models of 2 to 12
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

namespace {

// The share of the banks that a rank owns, and the most that it receives for one of them.
struct Owned {
  double scalars = 0;
  double adam_scalars = 0;
  double state_bytes = 0;
  double received_bytes = 0;
};

// `parts`: sums that an owner receives for each of its matrices.
Owned owned_by(int64_t rank, const Owners& owners, const std::vector<BankWork>& banks,
               const std::vector<ParameterSpec>& specs, const Routing& routing,
               const OptimConfig& optim, double parts) {
  Owned owned;
  for (size_t i = 0; i < banks.size(); ++i) {
    const ParameterSpec& spec = specs[size_t(banks[i].member)];
    const OptimizerGroup& group = routing.groups[size_t(routing.group_of[size_t(banks[i].member)])];
    const auto number = static_cast<double>(owners.counts[i][size_t(rank)]) /
                        static_cast<double>(std::max<int64_t>(banks[i].rows, 1));
    owned.scalars += number * count(spec);
    if (group.optimizer == &kAdamRow) owned.adam_scalars += number * count(spec);
    owned.state_bytes += number * optimizer_state_bytes(group, spec.shape, optim);
    owned.received_bytes = std::max(owned.received_bytes, 4 * parts * number * count(spec));
  }
  return owned;
}

// Subtrees that all ranks have together, and the sets of buffers of the rank that needs most.
struct GroupNeeds {
  double subtrees = 0;
  double waiting = 0;
};

GroupNeeds group_needs(const Recipe& recipe, int64_t ranks) {
  GroupNeeds needs;
  const int64_t groups = groups_of_step(recipe, ranks);
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const GroupRun run = groups_of_rank(groups, ranks, rank);
    needs.subtrees += static_cast<double>(subtrees(run).size());
    needs.waiting = std::max(needs.waiting, static_cast<double>(num_waiting(run)));
  }
  return needs;
}

}  // namespace

double program_bytes(int64_t ranks) { return ranks > 1 ? kRankBytes : kProgramBytes; }

MemoryEstimate estimate_memory(const Recipe& recipe, const Routing& routing, int64_t ranks) {
  MemoryEstimate memory{.program = program_bytes(ranks)};
  const std::vector<ParameterSpec> specs = parameter_specs(recipe.model);
  const TrainConfig& train = recipe.train;
  const bool saves_meanwhile =
      train.background_save && train.checkpoint_every > 0 && train.checkpoint_every < train.steps;
  const int64_t step_groups = groups_of_step(recipe, ranks);
  double scalars = 0;
  for (const ParameterSpec& spec : specs) scalars += count(spec);
  // The rank that owns most.
  const GroupNeeds groups = group_needs(recipe, ranks);
  const std::vector<BankWork> banks = work_of_banks(specs, routing, recipe.optim);
  const Owners owners = assign_owners(banks, ranks);
  Owned most;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const Owned owned =
        owned_by(rank, owners, banks, specs, routing, recipe.optim, groups.subtrees);
    most = {std::max(most.scalars, owned.scalars), std::max(most.adam_scalars, owned.adam_scalars),
            std::max(most.state_bytes, owned.state_bytes),
            std::max(most.received_bytes, owned.received_bytes)};
  }
  memory.weights = scalars * 4;
  if (train.precision == "bf16") memory.weights = scalars * 2 + 4 * most.scalars;
  memory.gradients = scalars * 4;
  memory.optimizer = most.state_bytes;
  memory.group_sums = groups.waiting * scalars * 4;
  // Of two banks at a time; parts in bf16 are made fp32 before they are added.
  if (ranks > 1) memory.exchange = 2 * most.received_bytes;
  // The weights before an update whose norm is measured: Adam's, or with groups all that a rank
  // owns. Half of them find room in what the backward pass has freed.
  memory.temporaries = 2 * (step_groups > 1 ? most.scalars : most.adam_scalars);
  if (saves_meanwhile) memory.snapshot = 4 * most.scalars + most.state_bytes;
  const int64_t of_group = (sequences_per_step(recipe) + step_groups - 1) / step_groups;
  memory.activations = activation_bytes_per_sequence(recipe) *
                       static_cast<double>(std::min(train.micro_batch_sequences, of_group));
  memory.temporaries += backward_temporaries(recipe, memory.activations);
  return memory;
}

Json describe_run(const Recipe& recipe, int64_t ranks) {
  const std::vector<ParameterSpec> specs = parameter_specs(recipe.model);
  const Routing routing = route_parameters(specs, recipe.optim, recipe.model.head_size);
  const MemoryEstimate memory = estimate_memory(recipe, routing, ranks);
  double parameters = 0;
  for (const ParameterSpec& spec : specs) parameters += count(spec);
  const double flops = model_flops_per_token(recipe.model);
  return {{"recipe", recipe_json(recipe)},
          {"recipe_hash", recipe_hash(recipe)},
          {"parameters", int64_t(parameters)},
          {"routing", routing_json(specs, routing, recipe.optim)},
          {"routing_table", routing_table(specs, routing, recipe.optim)},
          {"ranks", ranks},
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
            {"group_sums", memory.group_sums},
            {"exchange", memory.exchange},
            {"activations", memory.activations},
            {"temporaries", memory.temporaries},
            {"snapshot", memory.snapshot},
            {"total", memory.total()}}}};
}

}  // namespace osp
