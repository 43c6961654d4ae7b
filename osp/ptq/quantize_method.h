// Methods by name, and profiles: what `osp quantize --method A+B --profile P` means.
//
//   transforms   ffn-hadamard · quarot · spinquant · spinquant-kurtosis · smoothquant · awq
//   weights      rtn · gptq · gptaq · qronos
//
// At most one of each kind. A rotation alone stands for the paper's row, which has GPTQ; the others
// are followed by rounding. The rows of the paper's table are rtn, ffn-hadamard+rtn,
// ffn-hadamard+gptq, quarot, spinquant; smoothquant and awq are added to it.
#pragma once

#include <string>
#include <vector>

#include "osp/ptq/quantize_block.h"
#include "osp/quant/bits.h"

namespace osp {

enum class Transform {
  none,
  ffn_hadamard,
  quarot,
  spinquant,           // learned end to end
  spinquant_kurtosis,  // learned layer by layer
  smoothquant,
  awq
};

struct QuantizeMethod {
  std::string name;  // complete and in order: "quarot+gptq"
  Transform transform = Transform::none;
  WeightMethod weights = WeightMethod::rtn;
  Correction correction = Correction::none;

  // Whether it looks at calibration text.
  bool needs_calibration() const;
};

// Error(usage) that lists the known names, with the nearest one where one was mistyped.
QuantizeMethod parse_method(const std::string& text);

// The rows of the table, "all".
std::vector<std::string> table_methods();

enum class Profile {
  osp_paper,  // the reference's settings: fp32 scales, no act-order, activations in full precision
              // during calibration
  best,       // fp16 scales, act-order, Hessian from quantized inputs
};
Profile parse_profile(const std::string& text);

// Grid, GPTQ and calibration settings of a profile; `online` is left as it is by default.
WeightSettings weight_settings(const QuantizeMethod& method, Profile profile, const BitWidths& bits,
                               int64_t group, bool symmetric);

}  // namespace osp
