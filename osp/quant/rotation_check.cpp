#include "osp/quant/rotation_check.h"

#include "osp/base/error.h"
#include "osp/model/transformer.h"
#include "osp/quant/hadamard.h"
#include "osp/quant/rotation_family.h"
#include "osp/quant/rotation_store.h"

namespace osp {
namespace {

constexpr double kToleranceFp64 = 1e-12;
constexpr double kToleranceFp32 = 1e-3;

struct Step {
  const char* name;
  RotationPlan plan;
};

// The plan in parts that are exact each by itself.
std::vector<Step> steps_of(const RotationPlan& plan) {
  std::vector<Step> steps;
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

double invariance_tolerance(const ParameterStore& store) {
  return store.banks.at(0).master.scalar_type() == at::kDouble ? kToleranceFp64 : kToleranceFp32;
}

InvarianceCheck::InvarianceCheck(const ParameterStore& store, const at::Tensor& tokens_BT)
    : tokens_BT_(tokens_BT), logits_(forward_logits(store, tokens_BT)) {
  if (!logits_.isfinite().all().item<bool>()) {
    fail(ErrorCode::damaged,
         "the model's logits are not finite before any rotation: its weights are damaged or "
         "overflow");
  }
}

double InvarianceCheck::change(const ParameterStore& store, const OnlineTransforms& online) const {
  OnlineTransforms tried = online;
  tried.query_key_hadamard =
      online.query_key_hadamard && hadamard_factors(store.config.head_size).blocks > 0;
  OnlineHadamardTap tap(tried);
  ForwardOptions options;
  options.tap = &tap;
  const at::Tensor now = forward_logits(store, tokens_BT_, options);
  return now.sub(logits_).abs().max().item<double>() / logits_.abs().max().item<double>();
}

double InvarianceCheck::expect_unchanged(const ParameterStore& store,
                                         const OnlineTransforms& online,
                                         const std::string& step) const {
  const double moved = change(store, online), tolerance = invariance_tolerance(store);
  OSP_CHECK(moved <= tolerance, "{} moved the logits by {} of the largest one, {} allowed", step,
            moved, tolerance);
  return moved;
}

OnlineTransforms rotate_checked(ParameterStore& store, const RotationPlan& plan,
                                const at::Tensor& tokens_BT) {
  check_rotations_exact(store, plan);
  ParameterStore wide = widened(store);
  const InvarianceCheck check(wide, tokens_BT);
  OnlineTransforms online;
  for (const Step& step : steps_of(plan)) {
    rotate(wide, step.plan);
    if (step.plan.down) online = step.plan.online();
    check.expect_unchanged(wide, online, step.name);
  }
  store = narrowed(wide);
  return online;
}

}  // namespace osp
