#include "osp/ptq/part_transform.h"

#include "osp/ptq/awq.h"
#include "osp/ptq/smooth_quant.h"

namespace osp {

PartTransform rotating(const RotationPlan& plan) {
  return {
      .online = plan.online(),
      .kept_rows = 0,
      .apply = [plan](ParameterStore& part, const ChannelStatisticsTap*) { rotate(part, plan); }};
}

PartTransform smoothing(const ModelConfig& config) {
  check_smooth_quant(config);
  return {.online = {},
          .kept_rows = 1,
          .apply = [](ParameterStore& part, const ChannelStatisticsTap* seen) {
            if (seen != nullptr) smooth_quant_block(part, *part.part, *seen);
          }};
}

PartTransform scaling_by_awq(const WeightGrid& grid) {
  return {.online = {},
          .kept_rows = kAwqTokens,
          .apply = [grid](ParameterStore& part, const ChannelStatisticsTap* seen) {
            if (seen != nullptr) awq_block(part, *part.part, *seen, {.grid = grid});
          }};
}

}  // namespace osp
