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

// Refuses requests that no model can serve. Error(usage): 16-bit weights, or no calibration text
// where the method or the activation scales need it.
void check_request(const QuantizeRequest& request);

// Refuses models that the request's method cannot serve, by the configuration of the fused model
// alone: no tensor and no calibration text is read. Errors: unsupported with the reason of the
// transform (TransformRow::check_serves), for sizes without a Hadamard matrix that rotations or a
// quantized key cache need, and for static scales after norms where no norm precedes the blocks;
// usage if groups or Hadamard blocks do not divide.
void check_method_serves(const QuantizeRequest& request, const ModelConfig& config);

// Reads `source` (fused already, osp/model/model_source.h) part by part and writes request.out;
// `model_dir` has its tokenizer. Only SpinQuant holds the whole model in memory. Errors: those of
// check_request and check_method_serves, of read_calibration, of the transforms, of
// quantize_block_by_block and of save_quantized_model_dir.
QuantizeOutcome quantize_model(const ModelSource& source, const std::string& model_dir,
                               const QuantizeRequest& request);

}  // namespace osp
