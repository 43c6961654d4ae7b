// From a loaded model to integers: transforms, calibration, quantization and report, for one method
// and one seed, written as a model dir. `osp quantize` and the tests are its callers.
#pragma once

#include <cstdint>
#include <string>

#include "osp/base/json.h"
#include "osp/model/model_source.h"
#include "osp/ptq/quantize_request.h"

namespace osp {

struct QuantizeOutcome {
  Json report;              // quantize.json
  int64_t num_resumed = 0;  // blocks
};

// Refuses what no model can be quantized with. Error(usage): 16-bit weights, or no calibration where
// the method or the activation scales need it.
void check_request(const QuantizeRequest& request);

// Reads `source` (fused already, osp/model/model_source.h) part by part and writes request.out;
// `model_dir` is where its tokenizer lies. Only SpinQuant holds the whole model in memory. Errors:
// those of check_request, of the transforms, of read_calibration, of quantize_parts and of
// save_quantized_model_dir.
QuantizeOutcome quantize_model(const ModelSource& source, const std::string& model_dir,
                               const QuantizeRequest& request);

}  // namespace osp
