#include "osp/train/step.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>

#include "osp/base/error.h"
#include "osp/base/timing.h"
#include "osp/measure/tap_chain.h"
#include "osp/model/transformer.h"
#include "osp/optim/schedule.h"
#include "osp/quant/qat.h"
#include "osp/train/batch_tensors.h"
#include "osp/train/device.h"
#include "osp/train/exchange.h"

namespace osp {
namespace {

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

// Forward and backward over the sequences [first, first + count) of a batch, in micro-batches one
// after the other; each adds its share to the gradient. Returns the sum of the losses. The last
// one's backward pass calls `blocks_done`.
double run_micro_batches(TrainState& state, const BatchTensors& batch, Slice slice, Tap* tap,
                         double loss_scale, const std::function<void(int64_t)>& blocks_done) {
  const Recipe& recipe = state.recipe;
  const at::Device device = state.store.banks[0].master.device();
  at::Tensor loss_sum = at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(device));
  for (int64_t first = 0; first < slice.count; first += recipe.train.micro_batch_sequences) {
    const int64_t count = std::min(recipe.train.micro_batch_sequences, slice.count - first);
    const BatchTensors micro = sequences_of(batch, slice.first + first, count, device);
    ForwardOptions options;
    options.training = true;
    options.recompute_blocks = recipe.train.recompute_blocks;
    options.tap = tap;
    options.documents_BT = micro.documents_BT;
    if (first + count == slice.count) options.blocks_done = blocks_done;
    const at::Tensor loss =
        forward_loss_sum(state.store, micro.tokens_BT, micro.targets_BT, options, loss_scale);
    loss.backward();
    loss_sum.add_(loss.detach());
  }
  return loss_sum.item<double>();
}

// Adds one number per group of all ranks in the order of the groups.
double sum_of_groups(const TrainState& state, std::vector<double> of_own) {
  const int64_t ranks = state.ranks.size(), groups = state.groups();
  // All send the same number of numbers.
  of_own.resize(static_cast<size_t>((groups + ranks - 1) / ranks), 0.0);
  const at::Tensor all = state.ranks.all_gather(at::tensor(of_own, at::kDouble));
  double sum = 0;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    for (int64_t i = 0; i < groups_of_rank(groups, ranks, rank).count; ++i) {
      sum += all[rank][i].item<double>();
    }
  }
  return sum;
}

std::vector<at::Tensor> gradients_of(const ParameterStore& store) {
  std::vector<at::Tensor> gradients;
  for (const Bank& bank : store.banks) gradients.push_back(bank.gradient);
  return gradients;
}

// Forward and backward over the step's sequences. Leaves the gradient of the mean loss in the
// gradient banks of `owned` and returns that mean: both are scaled by the tokens scored in the
// whole step. No value if the step scores no token.
std::optional<double> accumulate_gradients(TrainState& state, const Mixture& data,
                                           StepReport& report) {
  const Recipe& recipe = state.recipe;
  const BatchPlan plan = batch_plan(recipe);
  const GroupRun own = state.own_groups();
  const Slice share = own_sequences(state);

  // Clear the gradients of the last step; let optimizers and quantizers attach to this
  // one's passes.
  zero_gradients(state.store);
  const std::unique_ptr<Tap> quantizers = qat_tap(state);
  TapChain taps = step_taps(state, quantizers.get());

  // Read the sequences of the step and count the tokens that its loss is the mean of.
  const auto start = std::chrono::steady_clock::now();
  const Batch batch =
      read_batch(data, plan, state.step, share.first, share.count, recipe.data.document_mask);
  report.data_seconds = seconds_since(start);
  // Another rank may have to fetch a shard first.
  const bool fetches = std::ranges::any_of(
      data.sources(), [](const MixtureSource& source) { return source.data->is_stored(); });
  const Ranks patient = fetches ? state.ranks.patient(kPatience_s) : state.ranks;
  const int64_t scored = patient.sum(num_scored(batch));
  if (scored == 0) return std::nullopt;

  // Run the groups one after the other, and add their gradients in the fixed tree. In the last
  // backward pass what is complete goes to its owners meanwhile.
  GradientExchange exchange(state);
  std::function<void(int64_t)> blocks_done;
  if (exchange.may_send_early()) {
    blocks_done = [&exchange](int64_t layer) { exchange.blocks_done(layer); };
  }
  const BatchTensors all = as_tensors(batch, plan.context);
  std::vector<double> losses;
  for (int64_t g = 0; g < own.count; ++g) {
    if (g > 0) zero_gradients(state.store);
    Slice slice = group_slice(plan.sequences_per_step, own.first + g, state.groups());
    slice.first -= share.first;
    losses.push_back(run_micro_batches(state, all, slice, taps.empty() ? nullptr : &taps,
                                       1.0 / static_cast<double>(scored), blocks_done));
    state.group_sums.add(gradients_of(state.store), own);
  }
  exchange.finish();
  return sum_of_groups(state, losses) / static_cast<double>(scored);
}

// Adds the squares of a tensor's numbers, block by block.
void add_squares(const at::Tensor& tensor, double& total) {
  constexpr int64_t kBlock = 1 << 15;
  constexpr int64_t kLanes = 8;  // independent sums, so that the additions can overlap
  if (!tensor.is_cpu()) {
    const double norm =
        at::linalg_vector_norm(tensor, 2, at::OptionalIntArrayRef(), false, at::kDouble)
            .item<double>();
    total += norm * norm;
    return;
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

std::vector<at::Tensor> gradients_of_group(const ParameterStore& store, int64_t group) {
  std::vector<at::Tensor> gradients;
  for (const Bank& bank : store.banks) {
    if (bank.group == group) gradients.push_back(bank.gradient);
  }
  return gradients;
}

// With groups of sequences every sum over weights is made of one number per matrix, or per some of
// its rows (Owners::parts): whichever rank owns them, the result has the same bits.
bool by_part(const TrainState& state) { return state.groups() > 1; }

// Sums one number per part of all banks by routing group.
std::vector<double> sums_by_group(const TrainState& state, const std::vector<double>& of_parts) {
  std::vector<double> sums(state.routing.groups.size(), 0.0);
  size_t next = 0;
  for (size_t b = 0; b < state.store.banks.size(); ++b) {
    for (int64_t rank = 0; rank < state.ranks.size(); ++rank) {
      for (int64_t i = 0; i < state.owners.numbers(b, rank); ++i) {
        sums[static_cast<size_t>(state.store.banks[b].group)] += of_parts[next++];
      }
    }
  }
  return sums;
}

// `number` of every part that this rank owns, in the order of banks: number(bank, units of
// its tensors).
template <class Number>
std::vector<double> of_owned_parts(const TrainState& state, const Number& number) {
  std::vector<double> numbers;
  for (size_t b = 0; b < state.owned.banks.size(); ++b) {
    const int64_t part = state.owners.parts[b], units = state.owned.banks[b].master.size(0);
    for (int64_t first = 0; first < units; first += part) {
      numbers.push_back(number(b, BankSlice{first, std::min(part, units - first)}));
    }
  }
  return numbers;
}

// Norms of the groups' gradients.
std::vector<double> norms_of_groups(const TrainState& state) {
  std::vector<double> norms;
  if (by_part(state)) {
    const auto square = [&](size_t b, const BankSlice& part) {
      return sum_of_squares(part.of(state.owned.banks[b].gradient));
    };
    norms = sums_by_group(state, of_all_parts(state, of_owned_parts(state, square)));
    for (double& norm : norms) norm = std::sqrt(norm);
    return norms;
  }
  for (size_t g = 0; g < state.routing.groups.size(); ++g) {
    norms.push_back(gradient_norm(gradients_of_group(state.store, static_cast<int64_t>(g))));
  }
  return norms;
}

// Fills in the norm of every group's gradient and that of all gradients together.
void measure_gradients(const TrainState& state, StepReport& report) {
  double square = 0;
  for (const double norm : norms_of_groups(state)) {
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

[[noreturn]] void fail_not_finite(const TrainState& state, size_t group, const StepReport& report) {
  fail(ErrorCode::diverged,
       "step {}: the update of group {} is not finite (gradient norm {:.3g}); its weights are lost",
       state.step + 1, state.routing.groups[group].name, report.gradient_norms[group]);
}

// Refuses to go on with weights that an update has made NaN or infinite.
void check_updated(const TrainState& state, size_t group, const StepReport& report) {
  bool finite = report.update_norms.empty() || std::isfinite(report.update_norms.back());
  for (const Bank& bank : state.store.banks) {
    if (bank.group != static_cast<int64_t>(group)) continue;
    finite = finite && std::isfinite(gradient_norm({bank.master}));
  }
  if (!finite) fail_not_finite(state, group, report);
}

// check_updated() of all groups at once, on all ranks. With `before`, the masters of `owned` before
// the update, also fills in the update norms.
void check_updated_by_part(const TrainState& state, const std::vector<at::Tensor>& before,
                           StepReport& report) {
  const auto change = [&](size_t b, const BankSlice& part) {
    const at::Tensor master = part.of(state.owned.banks[b].master);
    const double size = sum_of_squares(master);
    if (!std::isfinite(size)) return size;
    return before.empty() ? 0.0 : sum_of_squares(master - part.of(before[b]));
  };
  const std::vector<double> sums =
      sums_by_group(state, of_all_parts(state, of_owned_parts(state, change)));
  for (size_t g = 0; g < sums.size(); ++g) {
    if (!std::isfinite(sums[g])) fail_not_finite(state, g, report);
    if (!before.empty()) report.update_norms.push_back(std::sqrt(sums[g]));
  }
}

double timed_step(Optimizer& optimizer, const StepValues& values) {
  RECORD_USER_SCOPE("osp::optimizer");
  const auto start = std::chrono::steady_clock::now();
  optimizer.step(values);
  return seconds_since(start);
}

// The routing groups in the order in which they are updated. With many ranks those whose
// matrices are shared singly come last: their updates take longest, and hide the sending of the
// others' weights.
std::vector<size_t> order_of_updates(const TrainState& state) {
  std::vector<size_t> order(state.routing.groups.size());
  std::iota(order.begin(), order.end(), size_t{0});
  if (state.ranks.alone()) return order;
  std::stable_partition(order.begin(), order.end(), [&](size_t g) {
    return state.routing.groups[g].optimizer->division != Division::matrices;
  });
  return order;
}

// Steps 4 to 6 of train_step(). `values_of(group)` is what is scheduled.
template <class ValuesOf>
void update_weights(TrainState& state, const ValuesOf& values_of, bool measure,
                    WeightExchange& weights, StepReport& report) {
  const std::vector<OptimizerGroup>& groups = state.routing.groups;
  std::vector<at::Tensor> before;
  if (measure && by_part(state)) {
    for (const Bank& bank : state.owned.banks) before.push_back(bank.master.clone());
  }
  for (const size_t g : order_of_updates(state)) {
    // 4. Clip each group by its own norm.
    clip_gradients(state.owned, static_cast<int64_t>(g), groups[g].clip, report.gradient_norms[g]);
    // 5. Update the group's weights at the scheduled rate.
    StepValues values = values_of(groups[g]);
    values.measure = measure && !by_part(state);
    report.optimizer_seconds += timed_step(*state.optimizers[g], values);
    weights.send_group(static_cast<int64_t>(g));
    if (by_part(state)) continue;
    if (measure) report.update_norms.push_back(state.optimizers[g]->last_update_norm());
    // 6. Look at the weights before anything else uses them.
    check_updated(state, g, report);
  }
  if (by_part(state)) check_updated_by_part(state, before, report);
}

}  // namespace

Slice own_sequences(const TrainState& state) {
  const int64_t num_sequences = sequences_per_step(state.recipe);
  const GroupRun own = state.own_groups();
  const Slice head = group_slice(num_sequences, own.first, state.groups()),
              last = group_slice(num_sequences, own.first + own.count - 1, state.groups());
  return {head.first, last.first + last.count - head.first};
}

BatchPlan batch_plan(const Recipe& recipe) {
  // A block is whole windows, at least one.
  const int64_t tokens = recipe.data.shuffle_tokens, context = recipe.model.context;
  return {.seed = uint64_t(recipe.run.seed),
          .context = context,
          .sequences_per_step = sequences_per_step(recipe),
          .block_windows = uint64_t(tokens == 0 ? 0 : std::max<int64_t>(tokens / context, 1))};
}

StepReport train_step(TrainState& state, const Mixture& data, bool measure) {
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
    // 4. to 6. Clip, update, and look at the weights.
    WeightExchange weights(state);
    update_weights(state, values_of, measure, weights, report);
    // 7. Bring the compute copies up to date.
    weights.finish();
  } else if (measure) {
    report.update_norms.assign(groups.size(), 0.0);
  }
  ++state.step;
  state.watched = false;
  return report;
}

Slice group_slice(int64_t num_sequences, int64_t group, int64_t num_groups) {
  OSP_CHECK(group >= 0 && group < num_groups, "group {} of {}", group, num_groups);
  const int64_t first = num_sequences * group / num_groups;
  return {first, num_sequences * (group + 1) / num_groups - first};
}

double gradient_norm(const std::vector<at::Tensor>& tensors) {
  RECORD_USER_SCOPE("osp::gradient_norm");
  double total = 0;
  for (const at::Tensor& tensor : tensors) add_squares(tensor, total);
  return std::sqrt(total);
}

double sum_of_squares(const at::Tensor& tensor) {
  double total = 0;
  add_squares(tensor, total);
  return total;
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
