// For tests only: random matrices.
#pragma once

#include <ATen/ops/zeros.h>

#include "osp/base/philox.h"

namespace osp {

// fp32, normal with mean 0; a pure function of its arguments.
inline at::Tensor gaussian(int64_t rows, int64_t columns, const char* name,
                           double deviation = 1.0) {
  at::Tensor x = at::zeros({rows, columns}, at::kFloat);
  RandomStream(5, name).fill_normal({x.data_ptr<float>(), static_cast<size_t>(x.numel())}, 0.0,
                                    deviation);
  return x;
}

}  // namespace osp
