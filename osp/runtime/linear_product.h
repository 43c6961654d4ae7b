// The product of a pass's codes with a layer's weights.
//
// Tested by linear_product_test.cpp.
#pragma once

#include "osp/runtime/code_buffer.h"
#include "osp/runtime/packed_linear.h"
#include "osp/runtime/worker_pool.h"

namespace osp {

// out [rows, outputs] = (residual +) the outputs that packed_linear.h defines; `residual` may be
// `out` or null.
void linear_product(const CodeBuffer& codes, const PackedLinear& weight,
                    const kernels::EngineKernels& kernels, const kernels::CodeProducts& products,
                    const float* residual, float* out, WorkerPool& pool);

}  // namespace osp
