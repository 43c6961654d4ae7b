// The codes of a quantized model in the layout of AutoAWQ, version gemm, as vLLM, GPTQModel and
// transformers load it:
//
//   LAYER.qweight  I32 [in, out / 8]      code + 8 of eight outputs in a word, those of the places
//                                         0 … 7 being outputs 0 2 4 6 1 3 5 7
//   LAYER.qzeros   I32 [groups, out / 8]  zero + 8, the same; 8 for symmetric codes
//   LAYER.scales   F16 [groups, out]
//
// Four bits, or fewer in the place of four. Weights alone; scales are rounded to fp16.
//
// Tested by tests/python/test_export_codes.py.
#pragma once

#include <string>

#include "osp/export/coded_folder.h"

namespace osp {

// Writes a model with codes as an AWQ folder, as export_gptq does. Error(unsupported) for an online
// Hadamard, other codes than integers of at most 4 bits, act-order, outputs that eight do not
// divide, scales beyond fp16.
CodedExport export_awq(const std::string& model, const std::string& path, const std::string& dtype);

}  // namespace osp
