#include "osp/ptq/rotation_check.h"

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <vector>

#include "osp/base/error.h"
#include "osp/model/transformer.h"
#include "osp/ops/hadamard.h"
#include "osp/ptq/rotation_store.h"

namespace osp {
namespace {

struct RotationStep {
  const char* name;
  RotationPlan plan;
  bool query_key_hadamard = false;
};

// The plan in steps, each of which is exact by itself. R3 comes with every plan whose heads have a
// Hadamard matrix: it is applied where keys are quantized.
std::vector<RotationStep> steps_of(const RotationPlan& plan, const ModelConfig& config) {
  std::vector<RotationStep> steps;
  if (plan.fold_norms) steps.push_back({"folding the norms' weights", {.fold_norms = true}});
  if (plan.residual) {
    RotationPlan part;
    part.residual = plan.residual;
    steps.push_back({"R1 (residual stream)", part});
  }
  if (!plan.values.empty()) {
    RotationPlan part;
    part.values = plan.values;
    steps.push_back({"R2 (values)", part});
  }
  if (plan.down) {
    steps.push_back(
        {"R4 (input of the down projection)", {.down = true, .down_block = plan.down_block}});
  }
  if (hadamard_factors(config.head_size).blocks > 0) {
    steps.push_back({"R3 (queries and keys)", {}, /*query_key_hadamard=*/true});
  }
  return steps;
}

}  // namespace

bool OnlineHadamardTap::wants(TapPoint point, int64_t) const {
  return (online_.query_key_hadamard && (point == TapPoint::query || point == TapPoint::key)) ||
         (online_.down_hadamard && point == TapPoint::mlp_product);
}

at::Tensor OnlineHadamardTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (!wants(point, layer)) return x;
  return point == TapPoint::mlp_product ? hadamard_transform(x, {.block = online_.down_block})
                                        : hadamard_transform(x);
}

double check_rotations(const ModelSource& source, const RotationPlan& plan,
                       const at::Tensor& tokens_BT) {
  const c10::NoGradGuard no_graph;
  const std::vector<RotationStep> steps = steps_of(plan, source.config());
  std::vector<at::Tensor> results(steps.size() + 1);  // of the model as it is and after each step
  // Runs one part of all models: as it is, and after each step, which follows the steps before it.
  const auto visit = [&](Part part, const auto& run) {
    ParameterStore wide = copy_in_fp64(source.read(part));
    OnlineTransforms online{.query_key_hadamard = false};
    results[0] = run(wide, online, results[0]);
    for (size_t i = 0; i < steps.size(); ++i) {
      rotate_model(wide, steps[i].plan);
      if (steps[i].plan.down) {
        online.down_hadamard = true;
        online.down_block = steps[i].plan.down_block;
      }
      online.query_key_hadamard = steps[i].query_key_hadamard;
      results[i + 1] = run(wide, online, results[i + 1]);
    }
  };
  // Embed, pass the blocks one after another, and take the logits.
  visit(kOutsideBlocks, [&](const ParameterStore& store, const OnlineTransforms&,
                            const at::Tensor&) { return forward_embedding(store, tokens_BT); });
  for (int64_t layer = 0; layer < source.config().layers; ++layer) {
    visit(layer,
          [&](const ParameterStore& store, const OnlineTransforms& online, const at::Tensor& x) {
            OnlineHadamardTap tap(online);
            ForwardOptions options;
            options.tap = &tap;
            return forward_block(store, layer, x, options);
          });
  }
  visit(kOutsideBlocks, [&](const ParameterStore& store, const OnlineTransforms&,
                            const at::Tensor& x) { return forward_head(store, x); });
  // Compare the logits after each step with those before.
  if (!results[0].isfinite().all().item<bool>()) {
    fail(ErrorCode::damaged,
         "the model's logits are not finite before any rotation: its weights are damaged or "
         "overflow");
  }
  const double largest = results[0].abs().max().item<double>();
  double most = 0.0;
  for (size_t i = 0; i < steps.size(); ++i) {
    const double moved = results[i + 1].sub(results[0]).abs().max().item<double>() / largest;
    OSP_CHECK(moved <= kInvarianceTolerance,
              "{} moved the logits by {} of the largest one, {} allowed", steps[i].name, moved,
              kInvarianceTolerance);
    most = std::max(most, moved);
  }
  return most;
}

}  // namespace osp
