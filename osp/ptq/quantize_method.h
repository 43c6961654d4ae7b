// Methods by name, and profiles: what `osp quantize --method TRANSFORM+ROUNDING --profile P` means.
//
// At most one row of the table of transforms (transform.h) and one of the table of roundings
// (rounding.h). A transform alone is followed by its default rounding: GPTQ for the rotations, as
// in the paper's table, else round to nearest. The paper's table has rtn, ffn-hadamard+rtn,
// ffn-hadamard+gptq, quarot and spinquant; `--method all` adds smoothquant and awq.
#pragma once

#include <string>
#include <vector>

#include "osp/ptq/quantize_block.h"
#include "osp/ptq/rounding.h"
#include "osp/ptq/rtn.h"
#include "osp/ptq/transform.h"
#include "osp/quant/bits.h"

namespace osp {

struct QuantizeMethod {
  std::string name;                         // complete and in order: "quarot+gptq"
  const TransformRow* transform = nullptr;  // null: none
  const RoundingRow* rounding = &kRtn;

  // True if the method looks at calibration text.
  bool needs_calibration() const;
};

// Error(usage) that lists the known names, with the nearest one where one was mistyped.
QuantizeMethod parse_method(const std::string& text);

// The methods of `--method all`: roundings alone, then each transform with its roundings.
std::vector<std::string> table_methods();

// The help of --method: all names with their sentences.
std::string method_help();

enum class Profile {
  osp_paper,  // the reference's settings: fp32 scales, no act-order, activations in full precision
              // during calibration
  best,       // fp16 scales, act-order, Hessian from quantized inputs
};
Profile parse_profile(const std::string& text);

// Grid, GPTQ and calibration settings of a method in a profile; `online` keeps its default.
WeightSettings weight_settings(const QuantizeMethod& method, Profile profile, const BitWidths& bits,
                               int64_t group, bool symmetric);

}  // namespace osp
