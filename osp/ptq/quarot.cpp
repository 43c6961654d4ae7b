#include "osp/ptq/quarot.h"

#include <fmt/format.h>

#include <string>

#include "osp/base/error.h"
#include "osp/ptq/quantize_request.h"
#include "osp/ptq/rotation_family.h"
#include "osp/ptq/rotation_transform.h"

namespace osp {
namespace {

RotationPlan requested_quarot_plan(const ModelConfig& config, const QuantizeRequest& request) {
  return quarot_plan(config, {.seed = request.seed,
                              .down_block = request.down_block,
                              .residual_block = request.rotation_block});
}

}  // namespace

RotationPlan quarot_plan(const ModelConfig& config, const QuaRotOptions& options) {
  RotationPlan plan{.down = true, .down_block = options.down_block};
  if (turns_residual(config)) {
    plan.fold_norms = true;
    const std::string name = "R1 (residual stream): the width";
    const auto random = config.layer_norm() ? random_mean_keeping : random_hadamard;
    plan.residual = random(config.width, options.seed, name, options.residual_block);
  } else if (options.residual_block != 0) {
    fail(ErrorCode::usage,
         "--rotation-block: the norms of this family stand behind its branches, so that its "
         "residual stream cannot be turned (R1); quarot turns its values and the inputs of its "
         "down projections");
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    plan.values.push_back(
        random_hadamard(config.head_size, options.seed,
                        fmt::format("R2 (values of layer {}): the head size", layer)));
  }
  check_down_block(config, options.down_block, "R4 (input of the down projection)");
  return plan;
}

constexpr TransformRow kQuaRot = {
    .name = "quarot",
    .sentence = "random rotations of the residual stream and the values",
    .default_rounding = "gptq",
    .table_roundings = {"gptq"},
    .own_options = {"rotation_block"},
    .own_options_are_for = "the random rotation of the residual stream (quarot)",
    .leaves_down_hadamard = true,
    .check_serves =
        [](const ModelConfig& config, const QuantizeRequest& request) {
          check_rotations_exact(config, requested_quarot_plan(config, request));
        },
    .make =
        [](const TransformInputs& inputs) {
          return checked_rotation_transform(
              inputs, requested_quarot_plan(inputs.source.config(), inputs.request));
        }};

}  // namespace osp
