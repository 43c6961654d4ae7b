#include "osp/train/plan.h"

#include <algorithm>

#include "osp/base/error.h"
#include "osp/model/parameters.h"
#include "osp/optim/adamw.h"
#include "osp/optim/optimizers.h"
#include "osp/optim/routing.h"
#include "osp/ranks/owners.h"
#include "osp/train/flops.h"

namespace osp {
namespace {

// Of a gradient's number on the wire.
double wire_gradient_bytes(const Recipe& recipe) {
  return recipe.train.reduce_precision == "bf16" ? 2 : 4;
}

// A bank of equal matrices that Newton–Schulz orthogonalises, or of parameters that are divided
// evenly. Amounts are those of one.
struct Piece {
  int64_t count = 0;
  double scalars = 0;
  double state_bytes = 0;
  double flops = 0;       // 0: divided evenly
  double gathered = 0;    // bytes that devices which share the matrix gather
  bool measured = false;  // Adam's: weights before the update are kept for its norm
};

// Bytes that the devices that share a matrix receive in a step, all shares together: of A, in every
// Newton–Schulz step, its sum in fp32, then the rows of A and of the polynomial that the others
// made, in bf16.
double gathered_bytes(const OptimizerGroup& group, const std::vector<int64_t>& shape,
                      int64_t steps) {
  const int64_t height = group.split_rows > 0 ? group.split_rows : shape[0];
  const auto blocks = static_cast<double>(shape[0]) / static_cast<double>(height);
  const auto n = static_cast<double>(std::min(height, shape[1]));
  return blocks * static_cast<double>(steps) * 8.0 * n * n;
}

std::vector<Piece> pieces_of(const Recipe& recipe) {
  const std::vector<ParameterSpec> specs = parameter_specs(recipe.model);
  const Routing routing = route_parameters(specs, recipe.optim, recipe.model.head_size);
  std::vector<Piece> pieces;
  for (const BankWork& bank : work_of_banks(specs, routing, recipe.optim)) {
    const ParameterSpec& spec = specs[size_t(bank.member)];
    const OptimizerGroup& group = routing.groups[size_t(routing.group_of[size_t(bank.member)])];
    if (group.optimizer->division == Division::none) {
      fail(ErrorCode::usage,
           "{} trains {}: how its work is divided among devices is not known; plan for {}",
           group.optimizer->title, spec.name, divisible_names());
    }
    Piece& piece = pieces.emplace_back();
    piece.count = bank.count;
    piece.scalars = count(spec);
    piece.state_bytes = optimizer_state_bytes(group, spec.shape, recipe.optim);
    piece.measured = group.optimizer == &kAdamRow;
    if (!bank.divisible) continue;
    piece.flops = bank.cost;
    piece.gathered = gathered_bytes(group, spec.shape, recipe.optim.muon.newton_schulz.ns_steps);
  }
  return pieces;
}

// The sums over pieces that a layout needs.
struct Totals {
  double scalars = 0, even_scalars = 0, even_state = 0, measured_scalars = 0;
  std::vector<Piece> matrices;

  explicit Totals(const std::vector<Piece>& pieces) {
    for (const Piece& piece : pieces) {
      const auto number = static_cast<double>(piece.count);
      scalars += number * piece.scalars;
      if (piece.flops > 0) {
        matrices.push_back(piece);
        continue;
      }
      even_scalars += number * piece.scalars;
      even_state += number * piece.state_bytes;
      if (piece.measured) measured_scalars += number * piece.scalars;
    }
  }
};

// The share of the busiest group, all devices of the group together.
struct Share {
  double scalars = 0, state_bytes = 0, flops = 0, gathered = 0;
};

std::vector<Share> shares_of(const std::vector<Piece>& matrices, int64_t groups) {
  std::vector<BankWork> banks;
  banks.reserve(matrices.size());
  for (const Piece& piece : matrices) {
    banks.push_back({.count = piece.count, .cost = piece.flops, .divisible = true});
  }
  const Owners owners = assign_owners(banks, groups);
  std::vector<Share> shares(static_cast<size_t>(groups));
  for (size_t bank = 0; bank < matrices.size(); ++bank) {
    for (size_t group = 0; group < shares.size(); ++group) {
      const auto number = static_cast<double>(owners.counts[bank][group]);
      Share& share = shares[group];
      share.scalars += number * matrices[bank].scalars;
      share.state_bytes += number * matrices[bank].state_bytes;
      share.flops += number * matrices[bank].flops;
      share.gathered += number * matrices[bank].gathered;
    }
  }
  return shares;
}

double most(const std::vector<Share>& shares, double Share::*part) {
  double result = 0;
  for (const Share& share : shares) result = std::max(result, share.*part);
  return result;
}

// The larger of what a device sends and receives if the one that owns most owns `owned` of `all`
// scalars, and another as little as `least`: it gets its part from every other, and sends the rest.
double link_bytes(double all, double owned, double least, double others, double bytes) {
  return bytes * std::max(all - least, owned * others);
}

// `alone`: the estimate for a device that trains by itself with the same micro-batch.
DeviceMemory device_memory(const Recipe& device_recipe, const MemoryEstimate& alone,
                           const Totals& totals, const LayoutPlan& plan, double owned_state,
                           double devices) {
  DeviceMemory memory{.program = program_bytes(static_cast<int64_t>(devices)),
                      .gradients = alone.gradients,
                      .optimizer = owned_state,
                      .activations = alone.activations,
                      .temporaries = alone.temporaries};
  const bool bf16 = device_recipe.train.precision == "bf16";
  const bool alone_here = devices == 1;
  memory.weights = totals.scalars * (bf16 ? 2.0 : 4.0);
  memory.masters = bf16 || !alone_here ? plan.owned_scalars * 4.0 : 0.0;
  // Adam's weights before the update are those that the device owns.
  memory.temporaries -= totals.measured_scalars * 2.0 * (1.0 - 1.0 / devices);
  if (!alone_here) {
    double largest = 0;
    for (const Piece& piece : totals.matrices) largest = std::max(largest, piece.scalars);
    memory.exchange = 2.0 * 4 * largest;
  }
  if (alone.snapshot > 0) memory.snapshot = plan.owned_scalars * 4.0 + owned_state;
  return memory;
}

LayoutPlan plan_layout(const Recipe& device_recipe, const MemoryEstimate& alone,
                       const Cluster& cluster, const Plan& plan, const Totals& totals,
                       Layout layout) {
  const auto devices = static_cast<double>(cluster.devices);
  const auto split = static_cast<double>(layout.split);
  LayoutPlan result;
  result.layout = layout;
  // Matrices to groups, all else in equal parts.
  const std::vector<Share> shares = shares_of(totals.matrices, layout.groups);
  result.busy_groups = std::count_if(shares.begin(), shares.end(),
                                     [](const Share& share) { return share.flops > 0; });
  const double even = totals.even_scalars / devices;
  const bool idle = layout.groups * layout.split < cluster.devices;
  double least = idle ? 0.0 : shares.front().scalars;
  for (const Share& share : shares) least = std::min(least, share.scalars);
  result.owned_scalars = even + most(shares, &Share::scalars) / split;
  const double owned_state =
      totals.even_state / devices + most(shares, &Share::state_bytes) / split;
  result.optimizer_flops = most(shares, &Share::flops) / split;
  if (result.optimizer_flops > 0) {
    result.balance = plan.matrix_flops / devices / result.optimizer_flops;
  }
  result.inner_bytes = most(shares, &Share::gathered) * (split - 1) / split;
  // Bytes on the link of the device that sends or receives most.
  const double others = devices - 1;
  const double weight_width = device_recipe.train.precision == "bf16" ? 2.0 : 4.0;
  const double smallest = even + least / split;
  result.gradient_bytes = others == 0 ? 0
                                      : link_bytes(totals.scalars, result.owned_scalars, smallest,
                                                   others, wire_gradient_bytes(device_recipe));
  result.weight_bytes = others == 0 ? 0
                                    : link_bytes(totals.scalars, result.owned_scalars, smallest,
                                                 others, weight_width);
  // Memory, and times.
  result.memory = device_memory(device_recipe, alone, totals, result, owned_state, devices);
  result.fits = cluster.memory_bytes == 0 || result.memory.total() <= cluster.memory_bytes;
  const double rate = cluster.flops_per_s * cluster.efficiency;
  const auto seconds = [&](double bytes) { return bytes == 0 ? 0.0 : bytes / cluster.bytes_per_s; };
  result.passes_s = plan.passes_flops / rate;
  result.gradients_s = seconds(result.gradient_bytes);
  result.weights_s = seconds(result.weight_bytes);
  result.optimizer_s = result.optimizer_flops / rate + seconds(result.inner_bytes);
  const double last_backward = result.passes_s * 2 / 3 / static_cast<double>(plan.micro_batches);
  result.hidden_s = std::min(result.gradients_s, cluster.overlap * last_backward);
  result.step_s = result.serial_step_s() - result.hidden_s;
  result.mfu = plan.passes_flops / cluster.flops_per_s / result.step_s;
  // Adam's optimizer divides evenly, and so does its wire.
  const double adam_gradients =
      seconds(totals.scalars * wire_gradient_bytes(device_recipe) * others / devices);
  const double adam_weights = seconds(totals.scalars * weight_width * others / devices);
  const double adam_step = result.passes_s + adam_weights + adam_gradients -
                           std::min(adam_gradients, cluster.overlap * last_backward);
  result.of_adam = adam_step / result.step_s;
  return result;
}

std::vector<Layout> layouts_to_try(int64_t devices, int64_t matrices) {
  std::vector<Layout> layouts;
  for (int64_t split = 1; split <= devices; split *= 2) {
    if (devices % split != 0) break;
    layouts.push_back({split, devices / split});
    if (matrices == 0) break;
  }
  return layouts;
}

Layout checked(Layout layout, int64_t devices) {
  if (layout.groups == 0) layout.groups = devices / layout.split;
  if (layout.split < 1 || layout.groups < 1 || layout.split * layout.groups > devices) {
    fail(ErrorCode::usage, "{} groups of {} devices need {} devices, but there are {}",
         layout.groups, layout.split, layout.groups * layout.split, devices);
  }
  return layout;
}

Json memory_json(const DeviceMemory& memory) {
  return {{"program", memory.program},         {"weights", memory.weights},
          {"fp32_weights", memory.masters},    {"gradients", memory.gradients},
          {"optimizer", memory.optimizer},     {"exchange", memory.exchange},
          {"activations", memory.activations}, {"temporaries", memory.temporaries},
          {"snapshot", memory.snapshot},       {"total", memory.total()}};
}

Json layout_json(const LayoutPlan& one) {
  return {{"devices_per_matrix", one.layout.split},
          {"groups", one.layout.groups},
          {"busy_groups", one.busy_groups},
          {"owned_scalars", one.owned_scalars},
          {"balance", one.balance},
          {"newton_schulz_flops", one.optimizer_flops},
          {"newton_schulz_bytes", one.inner_bytes},
          {"gradient_bytes", one.gradient_bytes},
          {"weight_bytes", one.weight_bytes},
          {"memory_bytes", memory_json(one.memory)},
          {"fits", one.fits},
          {"seconds",
           {{"passes", one.passes_s},
            {"newton_schulz", one.optimizer_s},
            {"gradients", one.gradients_s},
            {"weights", one.weights_s},
            {"hidden", one.hidden_s},
            {"step", one.step_s},
            {"step_without_overlap", one.serial_step_s()}}},
          {"mfu", one.mfu},
          {"of_adam", one.of_adam}};
}

}  // namespace

Plan make_plan(const Recipe& recipe, const Cluster& cluster, const Layout* given) {
  Plan plan;
  plan.cluster = cluster;
  // Sequences of a device.
  const int64_t sequences = recipe.train.batch_tokens / recipe.model.context;
  if (cluster.devices > sequences) {
    fail(ErrorCode::usage,
         "a step has {} sequences, one or more for each of at most {} devices, but {} are asked "
         "for; raise train.batch_tokens",
         sequences, sequences, cluster.devices);
  }
  plan.sequences = (sequences + cluster.devices - 1) / cluster.devices;
  Recipe device_recipe = recipe;
  device_recipe.train.micro_batch_sequences =
      std::min(recipe.train.micro_batch_sequences, plan.sequences);
  const int64_t micro = device_recipe.train.micro_batch_sequences;
  plan.micro_batches = (plan.sequences + micro - 1) / micro;
  plan.passes_flops = model_flops_per_token(recipe.model) *
                      static_cast<double>(plan.sequences * recipe.model.context);
  // Matrices.
  const Totals totals(pieces_of(recipe));
  plan.parameters = static_cast<int64_t>(totals.scalars);
  for (const Piece& piece : totals.matrices) {
    plan.matrices += piece.count;
    plan.matrix_scalars += static_cast<double>(piece.count) * piece.scalars;
    plan.matrix_flops += static_cast<double>(piece.count) * piece.flops;
    plan.largest_matrix_flops = std::max(plan.largest_matrix_flops, piece.flops);
  }
  const double width = recipe.train.precision == "bf16" ? 2.0 : 4.0;
  plan.total_wire_bytes = totals.scalars * static_cast<double>(cluster.devices - 1) *
                          (wire_gradient_bytes(recipe) + width);
  // Layouts, and the best of them.
  std::vector<Layout> layouts = layouts_to_try(cluster.devices, plan.matrices);
  if (given != nullptr) layouts = {checked(*given, cluster.devices)};
  const MemoryEstimate alone = estimate_memory(
      device_recipe, route_parameters(parameter_specs(device_recipe.model), device_recipe.optim,
                                      device_recipe.model.head_size));
  for (const Layout& layout : layouts) {
    plan.layouts.push_back(plan_layout(device_recipe, alone, cluster, plan, totals, layout));
  }
  const auto better = [](const LayoutPlan& a, const LayoutPlan& b) {
    if (a.fits != b.fits) return a.fits;
    return a.fits ? a.step_s < b.step_s : a.memory.total() < b.memory.total();
  };
  plan.best = size_t(std::min_element(plan.layouts.begin(), plan.layouts.end(), better) -
                     plan.layouts.begin());
  return plan;
}

Json plan_json(const Plan& plan) {
  Json layouts = Json::array();
  for (const LayoutPlan& one : plan.layouts) layouts.push_back(layout_json(one));
  return {{"devices", plan.cluster.devices},
          {"bytes_per_s", plan.cluster.bytes_per_s},
          {"flops_per_s", plan.cluster.flops_per_s},
          {"efficiency", plan.cluster.efficiency},
          {"device_memory_bytes", plan.cluster.memory_bytes},
          {"parameters", plan.parameters},
          {"matrices", plan.matrices},
          {"matrix_parameters", plan.matrix_scalars},
          {"newton_schulz_flops", plan.matrix_flops},
          {"largest_matrix_flops", plan.largest_matrix_flops},
          {"sequences_per_device", plan.sequences},
          {"micro_batches", plan.micro_batches},
          {"pass_flops_per_device", plan.passes_flops},
          {"wire_bytes_of_all_devices", plan.total_wire_bytes},
          {"layouts", std::move(layouts)},
          {"best", plan.best}};
}

}  // namespace osp
