// The codes of a quantized model in the GPTQ layout, version 1, as GPTQModel, vLLM and transformers
// load it:
//
//   LAYER.qweight  I32 [in · bits / 32, out]      code + 2^(b−1), packed along `in`
//   LAYER.qzeros   I32 [groups, out · bits / 32]  zero + 2^(b−1) − 1, packed along `out`: version 1
//                                                 stores one less, 7 for symmetric 4-bit codes
//   LAYER.scales   F16 [groups, out]
//   LAYER.g_idx    I32 [in]                       column / group, or the group of another program
//
// Codes follow each other in the bits of the words, least significant first (3-bit codes lie across
// words). Weights alone: activations and cache run in 16 bits there. Scales are rounded to fp16,
// which those of profile `best` are already.
//
// Tested by tests/python/test_quantize_formats.py and tests/python/test_export_codes.py.
#pragma once

#include <string>

#include "osp/export/coded_folder.h"

namespace osp {

// Writes the model `model`, of codes of osp or of another program, as a GPTQ folder `path`, by a
// temporary folder beside it. `dtype` of the other tensors: f16, bf16 or fp32. Error(usage) if
// `model` has no codes; Error(unsupported) with a sentence for what the layout cannot carry: an
// online Hadamard of the down projection, other widths than 2, 3, 4 and 8 bits, layers whose sizes
// do not fill whole words, zero points of −2^(b−1), scales beyond fp16.
CodedExport export_gptq(const std::string& model, const std::string& path,
                        const std::string& dtype);

}  // namespace osp
