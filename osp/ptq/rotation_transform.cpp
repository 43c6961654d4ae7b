#include "osp/ptq/rotation_transform.h"

#include <ATen/ops/arange.h>

#include <algorithm>

#include "osp/ptq/rotation_check.h"

namespace osp {
namespace {

constexpr int64_t kInvarianceTokens = 32;

// A few tokens on which logits are compared before and after a rotation: the first of the
// calibration text, or without one some that are spread over the vocabulary.
at::Tensor invariance_tokens(const ModelConfig& config, const at::Tensor& windows_NT) {
  if (windows_NT.defined()) {
    return windows_NT.narrow(0, 0, 1).narrow(1, 0, std::min(kInvarianceTokens, windows_NT.size(1)));
  }
  const int64_t count = std::min(kInvarianceTokens, config.context);
  return at::arange(count, at::kLong)
      .mul_(std::max<int64_t>(1, config.vocabulary / count))
      .remainder_(config.vocabulary)
      .view({1, count});
}

}  // namespace

PartTransform rotation_transform(const RotationPlan& plan) {
  return {.online = plan.online(),
          .apply = [plan](ParameterStore& part, const ChannelStatisticsTap*) {
            rotate_model(part, plan);
          }};
}

PartTransform checked_rotation_transform(const TransformInputs& inputs, const RotationPlan& plan) {
  check_rotations(inputs.source, plan,
                  invariance_tokens(inputs.source.config(), inputs.windows_NT));
  return rotation_transform(plan);
}

}  // namespace osp
