#include "osp/optim/symmetric_product.h"

#include <ATen/ops/addmm.h>

#include <algorithm>

namespace osp {

void symmetric_product(const at::Tensor& out, const at::Tensor& left, const at::Tensor& right,
                       double alpha, const at::Tensor& sum, double beta, int64_t block) {
  const int64_t n = out.size(0);
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t count = std::min(block, n - begin), end = begin + count;
    at::Tensor rows = out.narrow(0, begin, count).narrow(1, 0, end);
    at::addmm_out(rows, sum.narrow(0, begin, count).narrow(1, 0, end), left.narrow(0, begin, count),
                  right.narrow(1, 0, end), beta, alpha);
    if (begin == 0) continue;
    out.narrow(0, 0, begin).narrow(1, begin, count).copy_(rows.narrow(1, 0, begin).t());
  }
}

}  // namespace osp
