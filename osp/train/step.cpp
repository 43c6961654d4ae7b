#include "osp/train/step.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "osp/base/error.h"
#include "osp/base/timing.h"
#include "osp/measure/tap_chain.h"
#include "osp/model/transformer.h"
#include "osp/optim/schedule.h"
#include "osp/quant/qat.h"
#include "osp/train/batch_tensors.h"
#include "osp/train/device.h"

namespace osp {
namespace {

BatchPlan batch_plan(const Recipe& recipe) {
  return {.seed = uint64_t(recipe.run.seed),
          .context = recipe.model.context,
          .sequences_per_step = sequences_per_step(recipe)};
}

// The quantizers of this step's forward pass; null where it has none.
std::unique_ptr<Tap> qat_tap(const TrainState& state) {
  const QatConfig& qat = state.recipe.qat;
  const BitWidths bits = parse_bits(qat.bits);
  if (bits == BitWidths{} || state.step < steps_before_qat(state.recipe)) return nullptr;
  return std::make_unique<QatTap>(state.store, bits, parse_input_points(qat.points));
}

// The taps of this step's passes: the optimizers' watchers, and the quantizers if not null.
TapChain step_taps(TrainState& state, Tap* quantizers) {
  std::vector<Tap*> taps;
  for (const auto& optimizer : state.optimizers) taps.push_back(optimizer->watch_step());
  taps.push_back(quantizers);
  return TapChain(taps);
}

// Forward and backward over the step's sequences. Leaves the gradient of the mean loss in the
// gradient banks and returns that mean: both are scaled by the tokens scored in the whole step.
// No value if the step scores no token.
std::optional<double> accumulate_gradients(TrainState& state, const TokenDataset& data, StepReport& report) {
  const Recipe& recipe = state.recipe;
  const BatchPlan plan = batch_plan(recipe);
  const Slice slice = rank_slice(plan.sequences_per_step, 0, 1);

  // Clear the gradients of the last step; let optimizers and quantizers attach to this one's
  // passes.
  zero_gradients(state.store);
  const std::unique_ptr<Tap> quantizers = qat_tap(state);
  TapChain taps = step_taps(state, quantizers.get());

  // Read the sequences of the step and count the tokens that its loss is the mean of.
  const auto start = std::chrono::steady_clock::now();
  const Batch batch =
      read_batch(data, plan, state.step, slice.first, slice.count, recipe.data.document_mask);
  report.data_seconds = seconds_since(start);
  const int64_t scored = num_scored(batch);
  if (scored == 0) return std::nullopt;

  // Run the micro-batches one after the other; each adds its share to the gradient.
  const at::Device device = state.store.banks[0].master.device();
  at::Tensor loss_sum = at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(device));
  const BatchTensors all = as_tensors(batch, plan.context);
  for (int64_t first = 0; first < slice.count; first += recipe.train.micro_batch_sequences) {
    const int64_t count = std::min(recipe.train.micro_batch_sequences, slice.count - first);
    const BatchTensors micro = sequences_of(all, first, count, device);
    ForwardOptions options;
    options.training = true;
    options.recompute_blocks = recipe.train.recompute_blocks;
    options.tap = taps.empty() ? nullptr : &taps;
    options.documents_BT = micro.documents_BT;
    const at::Tensor loss = forward_loss_sum(state.store, micro.tokens_BT, micro.targets_BT,
                                             options, 1.0 / static_cast<double>(scored));
    loss.backward();
    loss_sum.add_(loss.detach());
  }
  return loss_sum.item<double>() / static_cast<double>(scored);
}

std::vector<at::Tensor> gradients_of_group(const ParameterStore& store, int64_t group) {
  std::vector<at::Tensor> gradients;
  for (const Bank& bank : store.banks) {
    if (bank.group == group) gradients.push_back(bank.gradient);
  }
  return gradients;
}

// Fills in the norm of every group's gradient and that of all gradients together.
void measure_gradients(const TrainState& state, StepReport& report) {
  double square = 0;
  for (size_t g = 0; g < state.routing.groups.size(); ++g) {
    const double norm = gradient_norm(gradients_of_group(state.store, static_cast<int64_t>(g)));
    report.gradient_norms.push_back(norm);
    square += norm * norm;
  }
  report.gradient_norm = std::sqrt(square);
}

void clip_gradients(const ParameterStore& store, int64_t group, double largest, double norm) {
  if (!(largest > 0 && norm > largest)) return;
  for (const at::Tensor& gradient : gradients_of_group(store, group)) {
    gradient.mul_(largest / norm);
  }
}

// Refuses to go on with weights that an update has made NaN or infinite.
void check_updated(const TrainState& state, size_t group, const StepReport& report) {
  bool finite = report.update_norms.empty() || std::isfinite(report.update_norms.back());
  for (const Bank& bank : state.store.banks) {
    if (bank.group != static_cast<int64_t>(group)) continue;
    finite = finite && std::isfinite(gradient_norm({bank.master}));
  }
  if (finite) return;
  fail(ErrorCode::diverged,
       "step {}: the update of group {} is not finite (gradient norm {:.3g}); its weights are lost",
       state.step + 1, state.routing.groups[group].name, report.gradient_norms[group]);
}

double timed_step(Optimizer& optimizer, const StepValues& values) {
  RECORD_USER_SCOPE("osp::optimizer");
  const auto start = std::chrono::steady_clock::now();
  optimizer.step(values);
  return seconds_since(start);
}

}  // namespace

StepReport train_step(TrainState& state, const TokenDataset& data, bool measure) {
  const Recipe& recipe = state.recipe;
  const std::vector<OptimizerGroup>& groups = state.routing.groups;
  const auto values_of = [&](const OptimizerGroup& group) {
    return step_values(recipe.optim, recipe.schedule, group, state.step + 1, recipe.train.steps);
  };
  StepReport report;
  report.values = values_of(OptimizerGroup{});

  // 1. Accumulate the gradient of the step's mean loss.
  const std::optional<double> loss = accumulate_gradients(state, data, report);
  report.loss = loss.value_or(0.0);

  // 2. Measure how large it is.
  const at::NoGradGuard no_grad;
  measure_gradients(state, report);

  // 3. Ask the guard. A branch, never a multiplication by zero: a refused update touches nothing.
  if (loss) {
    report.skipped = state.guard.judge(state.step + 1, report.loss, report.gradient_norm);
  } else {
    report.skipped = "no token of its batch is scored";
    state.guard.count_empty();
  }
  if (report.skipped.empty()) {
    for (size_t g = 0; g < groups.size(); ++g) {
      // 4. Clip each group by its own norm.
      clip_gradients(state.store, static_cast<int64_t>(g), groups[g].clip,
                     report.gradient_norms[g]);
      // 5. Update the group's weights at the scheduled rate.
      StepValues values = values_of(groups[g]);
      values.measure = measure;
      report.optimizer_seconds += timed_step(*state.optimizers[g], values);
      if (measure) report.update_norms.push_back(state.optimizers[g]->last_update_norm());
      // 6. Look at the weights before anything else uses them.
      check_updated(state, g, report);
    }
    // 7. Bring the compute copies up to date.
    sync_compute(state.store);
  } else if (measure) {
    report.update_norms.assign(groups.size(), 0.0);
  }
  ++state.step;
  state.watched = false;
  return report;
}

Slice rank_slice(int64_t num_sequences, int64_t rank, int64_t num_ranks) {
  OSP_CHECK(rank >= 0 && rank < num_ranks, "rank {} of {}", rank, num_ranks);
  const int64_t first = num_sequences * rank / num_ranks;
  return {first, num_sequences * (rank + 1) / num_ranks - first};
}

double gradient_norm(const std::vector<at::Tensor>& tensors) {
  RECORD_USER_SCOPE("osp::gradient_norm");
  constexpr int64_t kBlock = 1 << 15;
  constexpr int64_t kLanes = 8;  // independent sums, so that the additions can overlap
  double total = 0;
  for (const at::Tensor& tensor : tensors) {
    if (!tensor.is_cpu()) {
      const double norm =
          at::linalg_vector_norm(tensor, 2, at::OptionalIntArrayRef(), false, at::kDouble)
              .item<double>();
      total += norm * norm;
      continue;
    }
    OSP_CHECK(tensor.is_contiguous() && tensor.scalar_type() == at::kFloat, "gradient bank");
    const float* x = tensor.const_data_ptr<float>();
    const int64_t size = tensor.numel();
    const int64_t num_blocks = (size + kBlock - 1) / kBlock;
    std::vector<double> sums(size_t(num_blocks), 0.0);
    at::parallel_for(0, num_blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t last = std::min(size, (block + 1) * kBlock);
        double lanes[kLanes] = {};
        int64_t i = block * kBlock;
        for (; i + kLanes <= last; i += kLanes) {
          for (int64_t l = 0; l < kLanes; ++l)
            lanes[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
        }
        for (; i < last; ++i) lanes[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
        for (const double lane : lanes) sums[block] += lane;
      }
    });
    for (const double sum : sums) total += sum;
  }
  return std::sqrt(total);
}

double gradient_norm_reference(const std::vector<at::Tensor>& tensors) {
  double total = 0;
  for (const at::Tensor& tensor : tensors) {
    const at::Tensor flat = tensor.cpu().contiguous().view({-1});
    for (int64_t i = 0; i < flat.numel(); ++i) {
      const double x = static_cast<double>(flat.const_data_ptr<float>()[i]);
      total += x * x;
    }
  }
  return std::sqrt(total);
}

}  // namespace osp
