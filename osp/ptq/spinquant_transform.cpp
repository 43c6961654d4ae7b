#include "osp/ptq/spinquant_transform.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/timing.h"
#include "osp/ptq/part_folder.h"
#include "osp/ptq/quantize_request.h"
#include "osp/ptq/quarot.h"
#include "osp/ptq/rotation_family.h"
#include "osp/ptq/rotation_transform.h"
#include "osp/ptq/spinquant.h"

namespace osp {
namespace {

// The nearest orthogonal matrix to one that is orthogonal but for rounding: Q ← Q (3 I − QᵀQ) / 2
// squares the error, twice.
void sharpen_orthogonality(Rotation& rotation) {
  at::Tensor& q = rotation.matrix;
  if (!q.defined()) return;
  for (int i = 0; i < 2; ++i) q = q.mul(1.5).sub(q.matmul(q.t().matmul(q)).mul(0.5));
}

// Tokens used from each calibration window.
int64_t learning_length(const QuantizeRequest& request, const at::Tensor& windows_NT) {
  return request.spin.length > 0 ? std::min(request.spin.length, windows_NT.size(1))
                                 : windows_NT.size(1);
}

QuaRotOptions start_of(const QuantizeRequest& request) {
  return {.seed = request.seed, .down_block = request.down_block};
}

std::string values_name(size_t layer) { return fmt::format("values.{}", layer); }

// The learned matrices of a plan in fp64: "residual" and "values.N".
void keep_rotations(const PartFolder& kept, const RotationPlan& plan, const Json& learning) {
  TensorBuffers buffers;
  buffers.add("residual", "F64", plan.residual->matrix);
  for (size_t layer = 0; layer < plan.values.size(); ++layer) {
    buffers.add(values_name(layer), "F64", plan.values[layer].matrix);
  }
  kept.save(kLearnedPart, buffers, learning);
}

RotationPlan kept_rotations(const PartFolder& kept, const TransformInputs& inputs) {
  RotationPlan plan = quarot_plan(inputs.source.config(), start_of(inputs.request));
  const SafetensorsFile file = kept.tensors(kLearnedPart);
  const auto matrix = [&](const std::string& name, int64_t size) {
    const TensorView& view = file.at(name);
    at::Tensor values;
    if (view.dtype == "F64" && view.shape == std::vector<int64_t>{size, size}) {
      values = at::empty({size, size}, at::kDouble);
      std::memcpy(values.mutable_data_ptr(), view.data.data(), values.nbytes());
    }
    // A comparison that is false for what is not finite.
    if (!values.defined() || !(orthogonality_error(values) < kLargestOrthogonalityError)) {
      fail(ErrorCode::damaged, "{}: {} is no rotation of {} channels; begin anew without --resume",
           kept.tensors_path(kLearnedPart), name, size);
    }
    return Rotation{.matrix = values};
  };
  plan.residual = matrix("residual", plan.residual->size());
  for (size_t layer = 0; layer < plan.values.size(); ++layer) {
    plan.values[layer] = matrix(values_name(layer), plan.values[layer].size());
  }
  return plan;
}

SpinQuantOptions learning_options(const QuantizeRequest& request, SpinObjective objective) {
  SpinQuantOptions options;
  options.objective = objective;
  options.steps = request.spin.steps;
  options.batch = request.spin.batch;
  options.seed = request.seed;
  options.down_block = request.down_block;
  options.bits = request.bits;
  options.groups = request.groups;
  // Weights that a Hessian will round keep 16 bits while rotations are learned.
  if (request.method.rounding->needs_calibration()) options.bits.weights = 16;
  if (!request.progress) return options;
  options.progress = [&request, start = std::chrono::steady_clock::now()](int64_t done,
                                                                          int64_t total, double) {
    request.progress(
        "steps", done, total,
        seconds_since(start) / static_cast<double>(done) * static_cast<double>(total - done));
  };
  return options;
}

PartTransform learned_transform(const TransformInputs& inputs, SpinObjective objective) {
  // Take what an interrupted run had learned: learned anew with other threads it would have other
  // bits than the blocks that are done.
  if (inputs.kept != nullptr && inputs.kept->has(kLearnedPart)) {
    PartTransform transform =
        checked_rotation_transform(inputs, kept_rotations(*inputs.kept, inputs));
    transform.learning = inputs.kept->info(kLearnedPart);
    return transform;
  }
  // Learn on the whole model, which is only in memory meanwhile.
  const SpinQuantOptions options = learning_options(inputs.request, objective);
  const int64_t length = learning_length(inputs.request, inputs.windows_NT);
  SpinQuantResult result =
      learn_rotations(inputs.source.read(kWhole), inputs.windows_NT.narrow(1, 0, length), options);
  // Remove the last errors of the descent, which logits in fp64 would show.
  if (result.plan.residual) sharpen_orthogonality(*result.plan.residual);
  for (Rotation& rotation : result.plan.values) sharpen_orthogonality(rotation);
  // Check, report and keep.
  PartTransform transform = checked_rotation_transform(inputs, result.plan);
  transform.learning = {
      {"steps", options.steps},
      {"windows_per_step", options.batch},
      {"window", length},
      {"objective", objective == SpinObjective::kurtosis ? "kurtosis" : "cross-entropy"},
      {"objectives", result.objectives}};
  if (inputs.kept != nullptr) keep_rotations(*inputs.kept, result.plan, transform.learning);
  return transform;
}

// Learned rotations are possible where QuaRot's are, R1 among them.
void check_learnable(const ModelConfig& config, const QuantizeRequest& request) {
  if (config.has_experts()) {
    fail(ErrorCode::unsupported,
         "SpinQuant learns from gradients, which osp does not compute through experts: use QuaRot, "
         "whose rotations are random");
  }
  if (request.bits.any_float()) {
    fail(
        ErrorCode::usage,
        "--bits {}: SpinQuant learns its rotations for integer grids; use quarot or another method "
        "with floating-point formats",
        request.bits.text());
  }
  // R1 is what it learns, and QuaRot's plan may lack.
  check_rotations_exact(config, {.fold_norms = true});
  check_rotations_exact(config, quarot_plan(config, start_of(request)));
}

}  // namespace

constexpr TransformRow kSpinQuant = {.name = "spinquant",
                                     .sentence = "rotations like quarot's, learned end to end",
                                     .default_rounding = "gptq",
                                     .table_roundings = {"gptq"},
                                     .needs_calibration = true,
                                     .own_options = {"spin_steps", "spin_batch", "spin_length"},
                                     .own_options_are_for = "the rotations that spinquant learns",
                                     .leaves_down_hadamard = true,
                                     .check_serves = check_learnable,
                                     .make = [](const TransformInputs& inputs) {
                                       return learned_transform(inputs, SpinObjective::end_to_end);
                                     }};

constexpr TransformRow kSpinQuantKurtosis = {
    .name = "spinquant-kurtosis",
    .sentence = "rotations like quarot's, learned layer by layer",
    .default_rounding = "gptq",
    .needs_calibration = true,
    .leaves_down_hadamard = true,
    .check_serves = check_learnable,
    .make = [](const TransformInputs& inputs) {
      return learned_transform(inputs, SpinObjective::kurtosis);
    }};

}  // namespace osp
