#include "osp/ptq/ffn_hadamard.h"

#include "osp/ptq/quantize_request.h"
#include "osp/ptq/rotation_transform.h"

namespace osp {

RotationPlan ffn_hadamard_plan(const ModelConfig& config, int64_t down_block) {
  check_down_block(config, down_block, "FFN Hadamard (input of the down projection)");
  return {.down = true, .down_block = down_block};
}

constexpr TransformRow kFfnHadamard = {
    .name = "ffn-hadamard",
    .sentence = "the input of the down projection is turned by a Hadamard matrix",
    .default_rounding = "rtn",
    .table_roundings = {"rtn", "gptq"},
    .leaves_down_hadamard = true,
    .check_serves =
        [](const ModelConfig& config, const QuantizeRequest& request) {
          ffn_hadamard_plan(config, request.down_block);
        },
    .make =
        [](const TransformInputs& inputs) {
          return checked_rotation_transform(
              inputs, ffn_hadamard_plan(inputs.source.config(), inputs.request.down_block));
        }};

}  // namespace osp
