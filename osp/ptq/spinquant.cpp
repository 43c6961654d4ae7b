#include "osp/ptq/spinquant.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/model/transformer.h"
#include "osp/ptq/cayley.h"
#include "osp/ptq/quarot.h"
#include "osp/ptq/rotation_family.h"
#include "osp/ptq/rotation_store.h"
#include "osp/ptq/spinquant_tap.h"

namespace osp {
namespace {

// The matrices that are learned, in fp64.
struct LearnedMatrices {
  at::Tensor residual;
  std::vector<at::Tensor> values;
};

LearnedMatrices random_start(const RotationPlan& plan) {
  LearnedMatrices matrices{plan.residual->dense(), {}};
  for (const Rotation& q : plan.values) matrices.values.push_back(q.dense());
  return matrices;
}

// P G P with P = I − 1 1ᵀ / n: a step against it leaves 1ᵀ Q = 1ᵀ, as rotations for LayerNorm must.
// The direction of the step (cayley.h) is then P W P, which has W 1 = 0.
at::Tensor centred(const at::Tensor& gradient) {
  const at::Tensor g = gradient.to(at::kDouble);
  const at::Tensor rows = g - g.mean(1, /*keepdim=*/true);
  return rows - rows.mean(0, /*keepdim=*/true);
}

// Takes Cayley steps and records what they did.
class Descent {
 public:
  // With `keeps_mean` R1 stays one that keeps the mean over channels.
  Descent(const SpinQuantOptions& options, bool keeps_mean, SpinQuantResult& result)
      : options_(options), keeps_mean_(keeps_mean), result_(result) {}

  void step_residual(at::Tensor& x, const at::Tensor& gradient, int64_t index) {
    step(x, keeps_mean_ ? centred(gradient) : gradient, index);
  }

  void step(at::Tensor& x, const at::Tensor& gradient, int64_t index) {
    leave_if_stopped("rotations were learned");
    const CayleyStep done =
        cayley_step(x, gradient, cosine_rate(options_.rate, index, options_.steps));
    result_.largest_error = std::max(result_.largest_error, done.error);
    result_.num_corrections += done.corrected;
  }

  void record(double objective, int64_t index) {
    if (!std::isfinite(objective)) {
      fail(ErrorCode::diverged, "SpinQuant: the objective is not finite at step {}", index);
    }
    result_.objectives.push_back(objective);
    if (options_.progress) options_.progress(index + 1, options_.steps, objective);
  }

 private:
  const SpinQuantOptions& options_;
  bool keeps_mean_;
  SpinQuantResult& result_;
};

// The calibration windows of one step, taken in turn.
at::Tensor batch_of(const at::Tensor& windows_NT, int64_t step, int64_t batch) {
  const int64_t count = windows_NT.size(0), taken = std::min(batch, count);
  return windows_NT.index_select(
      0, at::arange(step * taken, (step + 1) * taken, at::kLong).remainder(count));
}

at::Tensor leaf_of(const at::Tensor& matrix) {
  return matrix.to(at::kFloat).detach().clone().requires_grad_(true);
}

void learn_end_to_end(const ParameterStore& prepared, const OnlineTransforms& online,
                      const at::Tensor& windows_NT, const SpinQuantOptions& options,
                      LearnedMatrices& matrices, Descent& descent) {
  for (int64_t step = 0; step < options.steps; ++step) {
    // Make fp32 leaves of the matrices; the tap rotates and quantizes the model by them.
    const at::Tensor residual = leaf_of(matrices.residual);
    std::vector<at::Tensor> values;
    for (const at::Tensor& q : matrices.values) values.push_back(leaf_of(q));
    SpinQuantTap tap(prepared, options.bits, online, residual, values, options.groups);
    // Cross-entropy of the quantized model on the next windows.
    const at::Tensor tokens = batch_of(windows_NT, step, options.batch);
    const int64_t scored = tokens.size(1) - 1;
    const double scale = 1.0 / static_cast<double>(tokens.size(0) * scored);
    ForwardOptions forward;
    forward.tap = &tap;
    forward.training = true;
    const at::Tensor loss =
        forward_loss_sum(prepared, tokens.narrow(1, 0, scored).contiguous(),
                         tokens.narrow(1, 1, scored).contiguous(), forward, scale);
    descent.record(loss.item<double>() * scale, step);
    // Turn every matrix against its gradient.
    loss.backward();
    descent.step_residual(matrices.residual, residual.grad(), step);
    for (size_t layer = 0; layer < values.size(); ++layer) {
      descent.step(matrices.values[layer], values[layer].grad(), step);
    }
  }
}

// Rows of the normalised inputs (of all layers together) and of the values (of each layer).
class RowTap : public Tap {
 public:
  // Evenly spaced rows of one forward pass: `kept_rows` of the inputs and as many of each layer's
  // values, or a little more.
  RowTap(int64_t kept_rows, int64_t layers) : kept_rows_(kept_rows), layers_(layers) {}

  bool wants(TapPoint point, int64_t) const override {
    return point == TapPoint::attention_input || point == TapPoint::mlp_input ||
           point == TapPoint::value;
  }
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override {
    const at::Tensor rows = x.detach().reshape({-1, x.size(-1)});
    const int64_t wanted = point == TapPoint::value ? kept_rows_ : kept_rows_ / (2 * layers_) + 1;
    const int64_t stride = std::max<int64_t>(1, rows.size(0) / wanted);
    const at::Tensor kept =
        rows.index_select(0, at::arange(0, rows.size(0), stride)).to(at::kDouble);
    at::Tensor& held = point == TapPoint::value ? values_[layer] : inputs_;
    held = held.defined() ? at::cat({held, kept}) : kept;
    return x;
  }

  const at::Tensor& inputs() const { return inputs_; }
  const at::Tensor& values(int64_t layer) const { return values_.at(layer); }

 private:
  int64_t kept_rows_, layers_;
  at::Tensor inputs_;
  std::map<int64_t, at::Tensor> values_;
};

void learn_by_kurtosis(const ParameterStore& prepared, const at::Tensor& windows_NT,
                       const SpinQuantOptions& options, LearnedMatrices& matrices,
                       Descent& descent) {
  // Keep rows of the inputs and values of one forward pass.
  const int64_t layers = prepared.config.layers;
  const at::Tensor windows = batch_of(windows_NT, 0, options.batch);
  RowTap rows(options.kept_rows, layers);
  ForwardOptions forward;
  forward.tap = &rows;
  forward_hidden(prepared, windows, forward);
  // Turn R1 by the inputs of all layers and each R2 by its layer's values.
  for (int64_t step = 0; step < options.steps; ++step) {
    KurtosisObjective objective = rotated_kurtosis(rows.inputs(), matrices.residual);
    double sum = objective.value;
    descent.step_residual(matrices.residual, objective.gradient, step);
    for (int64_t layer = 0; layer < layers; ++layer) {
      at::Tensor& q = matrices.values[static_cast<size_t>(layer)];
      objective = rotated_kurtosis(rows.values(layer), q);
      sum += objective.value;
      descent.step(q, objective.gradient, step);
    }
    descent.record(sum / static_cast<double>(layers + 1), step);
  }
}

}  // namespace

KurtosisObjective rotated_kurtosis(const at::Tensor& x, const at::Tensor& q) {
  const double width = static_cast<double>(x.size(1)), count = static_cast<double>(x.size(0));
  const at::Tensor y = at::matmul(x, q);
  const at::Tensor second = x.square().mean(1, /*keepdim=*/true).clamp_min(1e-30);
  const at::Tensor weight = second.square().reciprocal();
  const double value = (y.pow(4).mean(1, /*keepdim=*/true) * weight).mean().item<double>();
  // d value / dQ = xᵀ (4 y³ / (width · m₂²)) / count; m₂ does not depend on Q.
  return {value, at::matmul(x.t(), y.pow(3) * weight) * (4.0 / (width * count)) * width};
}

SpinQuantResult learn_rotations(const ParameterStore& store, const at::Tensor& windows_NT,
                                const SpinQuantOptions& options) {
  OSP_CHECK(options.steps > 0 && windows_NT.size(0) > 0, "{} steps on {} windows", options.steps,
            windows_NT.size(0));
  // Start from QuaRot's random rotations, which must be exact for the model.
  SpinQuantResult result;
  result.plan = quarot_plan(store.config, {.seed = options.seed, .down_block = options.down_block});
  check_rotations_exact(store.config, result.plan);
  // Apply what is not learned: folded norms and R4.
  const RotationPlan fixed{.fold_norms = true, .down = true, .down_block = options.down_block};
  ParameterStore prepared = copy_in_fp32(store);
  rotate_model(prepared, fixed);
  LearnedMatrices matrices = random_start(result.plan);
  // Learn R1 and every R2.
  Descent descent(options, store.config.layer_norm(), result);
  if (options.objective == SpinObjective::end_to_end) {
    learn_end_to_end(prepared, fixed.online(), windows_NT, options, matrices, descent);
  } else {
    learn_by_kurtosis(prepared, windows_NT, options, matrices, descent);
  }
  // Orthonormalise: steps may leave errors of 1e-6, which the logits would show.
  result.plan.residual = dense_rotation(orthonormalized(matrices.residual));
  for (size_t layer = 0; layer < matrices.values.size(); ++layer) {
    result.plan.values[layer] = dense_rotation(orthonormalized(matrices.values[layer]));
  }
  return result;
}

}  // namespace osp
