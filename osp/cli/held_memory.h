// The memory that `osp eval` and `osp quantize` are sure to hold at one moment, and its comparison
// with the machine before they begin. Counted are weights, their rounded copies, and what
// calibration keeps; not the activations of a batch, nor what is written. So the estimate is a
// lower bound: of SmolLM2-135M 0.74 to 0.90 of the peak of `osp eval`, and 0.48 of that of `osp
// quantize --method rtn`.
//
// Tested by tests/python/test_memory.py, which compares it with peaks.
#pragma once

#include <string>
#include <vector>

#include "osp/base/console.h"
#include "osp/model/config.h"
#include "osp/ptq/quantize_request.h"
#include "osp/quant/bits.h"

namespace osp {

// A model to be evaluated.
struct EvaluatedWeights {
  std::string dir;                // of a model, quantized or not, or a GGUF file
  std::vector<BitWidths> widths;  // of a model that is not quantized: one after the other
  bool bf16 = false;              // --precision
  bool simulated = false;         // a quantized model by --engine simulated
};

// Bytes beside what the process holds already. Errors as load_model_config.
double evaluation_bytes(const EvaluatedWeights& evaluated);
// The 16-bit model that divergence is measured from.
double plain_model_bytes(const std::string& dir);

// Bytes of quantizing a model block by block; `measured`: the original is held beside, and is
// compared with the quantized model at the end.
double quantization_bytes(const ModelConfig& config, const QuantizeRequest& request, bool measured);

// Error(memory) if this process would hold more than the machine can give it, a warning if other
// programs are in the way: "WORK needs at least 40.00 GB of memory, and this machine has 23.00 GB:
// ADVICE". The advice is `first_advice` ("lower --memory, ") and that on another model or machine.
void check_held_memory(double bytes, const std::string& work, const std::string& first_advice,
                       Console& console);

}  // namespace osp
