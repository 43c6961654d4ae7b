// The codes of a quantized model in the layouts of compressed-tensors, as vLLM and transformers
// load them (osp/ptq/quantized_model_tensors.h has the tensors): weights alone. A folder of `osp
// quantize` has this layout, too, but also says how activations and cache are rounded and, where
// that is nothing other programs compute, that osp alone runs it; the export runs everywhere.
//
// Tested by tests/python/test_export_codes.py.
#pragma once

#include <string>

#include "osp/export/coded_folder.h"

namespace osp {

// Writes a model with codes as a compressed-tensors folder, as export_gptq does; `dtype` auto is
// bf16. Scales of integers are fp32: compressed-tensors multiplies in their type.
// Error(unsupported) for an online Hadamard, experts, act-order of another program and
// architectures of osp's own.
CodedExport export_compressed(const std::string& model, const std::string& path,
                              const std::string& dtype);

}  // namespace osp
