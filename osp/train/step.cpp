#include "osp/train/step.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "osp/base/error.h"
#include "osp/base/timing.h"
#include "osp/measure/tap_chain.h"
#include "osp/model/transformer.h"
#include "osp/optim/schedule.h"
#include "osp/quant/qat.h"
#include "osp/train/device.h"

namespace osp {
namespace {

BatchPlan batch_plan(const Recipe& recipe) {
  return {.seed = uint64_t(recipe.run.seed),
          .context = recipe.model.context,
          .sequences_per_step = sequences_per_step(recipe)};
}

// Rows [first, first + count) of a batch as a tensor on the device.
template <class T>
at::Tensor rows(std::vector<T>& values, int64_t first, int64_t count, int64_t context,
                at::ScalarType type, at::Device device) {
  return at::from_blob(values.data() + first * context, {count, context},
                       at::TensorOptions().dtype(type))
      .to(device);
}

// The quantizers of this step's forward pass; null where it has none.
std::unique_ptr<Tap> qat_tap(const TrainState& state) {
  const QatConfig& qat = state.recipe.qat;
  const BitWidths bits = parse_bits(qat.bits);
  if (bits == BitWidths{} || state.step < qat.start_step) return nullptr;
  return std::make_unique<QatTap>(state.store, bits);
}

// What takes part in this step's passes: the optimizers' watchers, and the quantizers if not null.
TapChain step_taps(TrainState& state, Tap* quantizers) {
  std::vector<Tap*> taps;
  for (const auto& optimizer : state.optimizers) taps.push_back(optimizer->watch_step());
  taps.push_back(quantizers);
  return TapChain(taps);
}

// Forward and backward over the step's sequences. Leaves the gradient of the mean loss in the
// gradient banks and returns that mean: both are scaled by the tokens scored in the whole step.
double accumulate_gradients(TrainState& state, const TokenDataset& data, StepReport& report) {
  const Recipe& recipe = state.recipe;
  const BatchPlan plan = batch_plan(recipe);
  const Slice slice = rank_slice(plan.sequences_per_step, 0, 1);
  zero_gradients(state.store);
  const std::unique_ptr<Tap> quantizers = qat_tap(state);
  TapChain taps = step_taps(state, quantizers.get());
  const auto start = std::chrono::steady_clock::now();
  Batch batch =
      read_batch(data, plan, state.step, slice.first, slice.count, recipe.data.document_mask);
  report.data_seconds = seconds_since(start);
  const int64_t scored =
      std::count_if(batch.targets.begin(), batch.targets.end(), [](int64_t t) { return t >= 0; });
  if (scored == 0) return 0;
  const at::Device device = state.store.banks[0].master.device();
  at::Tensor loss_sum = at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(device));
  for (int64_t first = 0; first < slice.count; first += recipe.train.micro_batch_sequences) {
    const int64_t count = std::min(recipe.train.micro_batch_sequences, slice.count - first);
    ForwardOptions options;
    options.training = true;
    options.recompute_blocks = recipe.train.recompute_blocks;
    options.tap = taps.empty() ? nullptr : &taps;
    if (recipe.data.document_mask) {
      options.documents_BT = rows(batch.documents, first, count, plan.context, at::kInt, device);
    }
    const at::Tensor loss = forward_loss_sum(
        state.store, rows(batch.tokens, first, count, plan.context, at::kLong, device),
        rows(batch.targets, first, count, plan.context, at::kLong, device), options,
        1.0 / double(scored));
    loss.backward();
    loss_sum.add_(loss.detach());
  }
  return loss_sum.item<double>() / double(scored);
}

std::vector<at::Tensor> gradients_of_group(const ParameterStore& store, int64_t group) {
  std::vector<at::Tensor> gradients;
  for (const Bank& bank : store.banks) {
    if (bank.group == group) gradients.push_back(bank.gradient);
  }
  return gradients;
}

}  // namespace

StepReport train_step(TrainState& state, const TokenDataset& data, bool measure) {
  StepReport report;
  report.loss = accumulate_gradients(state, data, report);

  const at::NoGradGuard no_grad;
  const size_t num_groups = state.routing.groups.size();
  double square = 0;
  for (size_t g = 0; g < num_groups; ++g) {
    report.gradient_norms.push_back(gradient_norm(gradients_of_group(state.store, int64_t(g))));
    square += report.gradient_norms[g] * report.gradient_norms[g];
  }
  report.gradient_norm = std::sqrt(square);

  // A branch, never a multiplication by zero: what the guard refuses touches nothing.
  report.skipped = state.guard.judge(state.step + 1, report.loss, report.gradient_norm);
  if (report.skipped.empty()) {
    for (size_t g = 0; g < num_groups; ++g) {
      const OptimizerGroup& group = state.routing.groups[g];
      if (group.clip > 0 && report.gradient_norms[g] > group.clip) {
        for (const at::Tensor& gradient : gradients_of_group(state.store, int64_t(g))) {
          gradient.mul_(group.clip / report.gradient_norms[g]);
        }
      }
      StepValues values = step_values(state.recipe.optim, state.recipe.schedule, group,
                                      state.step + 1, state.recipe.train.steps);
      values.measure = measure;
      {
        RECORD_USER_SCOPE("osp::optimizer");
        const auto start = std::chrono::steady_clock::now();
        state.optimizers[g]->step(values);
        report.optimizer_seconds += seconds_since(start);
      }
      if (measure) report.update_norms.push_back(state.optimizers[g]->last_update_norm());
    }
    sync_compute(state.store);
  } else if (measure) {
    report.update_norms.assign(num_groups, 0.0);
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
          for (int64_t l = 0; l < kLanes; ++l) lanes[l] += double(x[i + l]) * double(x[i + l]);
        }
        for (; i < last; ++i) lanes[0] += double(x[i]) * double(x[i]);
        for (const double lane : lanes) sums[size_t(block)] += lane;
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
      const double x = double(flat.const_data_ptr<float>()[i]);
      total += x * x;
    }
  }
  return std::sqrt(total);
}

}  // namespace osp
