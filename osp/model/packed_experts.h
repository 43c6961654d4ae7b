// The experts of a block in MXFP4, as gpt-oss is published (quant_method mxfp4):
//
//   NAME_blocks  U8 [E, out, in / 32, 16]  two E2M1 codes in a byte (e2m1.h), the first in its low
//                                          half
//   NAME_scales  U8 [E, out, in / 32]      e of the block's scale 2^(e − 127); 255 is NaN
//
// NAME is mlp.experts.gate_up_proj, whose outputs are gate, up, gate, up … in turn, or down_proj.
// Layout: the documents and code of transformers; numbers: Open Compute Project, microscaling
// formats 1.0.
//
// Tested by tests/python/test_gpt_oss.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "osp/formats/safetensors.h"

namespace osp {

// The numbers in fp32 as a tensor of the shape [E, in, out] of weights that are not packed; `find`
// gives the parts by their endings (null: absent). Error(damaged) with `where` for a part that is
// absent or of another type or shape, inputs that blocks of 32 do not divide, scales of 255, and
// numbers beyond fp32.
at::Tensor unpack_mxfp4_experts(const std::vector<int64_t>& shape,
                                const std::function<const TensorView*(const std::string&)>& find,
                                const std::string& where);

}  // namespace osp
