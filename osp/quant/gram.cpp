#include "osp/quant/gram.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/ops/isa.h"
#include "osp/ops/parallel.h"
#include "osp/quant/gram_kernels.h"

namespace osp {
namespace {

constexpr int64_t kColumns = 192;  // of a block of the fp32 product
constexpr int64_t kPackedBytes = int64_t{64} << 20;
constexpr int64_t kFewestRows = 512;

void add_fp32(at::Tensor& gram, const at::Tensor& x) {
  const int64_t k = x.size(1);
  for (int64_t begin = 0; begin < k; begin += kColumns) {
    const int64_t width = std::min(kColumns, k - begin);
    gram.narrow(0, begin, width)
        .narrow(1, begin, k - begin)
        .addmm_(x.narrow(1, begin, width).t(), x.narrow(1, begin, k - begin));
  }
}

// As many rows are packed as kPackedBytes hold; then every pair of panels is one task.
void add_bf16(at::Tensor& gram, const at::Tensor& x) {
  using namespace gram_kernels;
  const int64_t n = x.size(0), k = x.size(1), panels = (k + kPanel - 1) / kPanel;
  const int64_t fitting = kPackedBytes / (panels * kPanel * 2) / 2 * 2;
  const int64_t rows_at_a_time = std::min(n + n % 2, std::max(kFewestRows, fitting));
  const int64_t stride = rows_at_a_time / 2 * kPanel;  // of a panel
  at::Tensor packed = at::empty({panels * stride}, at::kInt);
  uint32_t* const words = reinterpret_cast<uint32_t*>(packed.data_ptr<int32_t>());
  const uint16_t* const rows = reinterpret_cast<const uint16_t*>(x.const_data_ptr());
  float* const sums = gram.data_ptr<float>();
  for (int64_t begin = 0; begin < n; begin += rows_at_a_time) {
    const int64_t count = std::min(rows_at_a_time, n - begin);
    for_each_task(
        panels, [&](int64_t p) { pack_panel(rows + begin * k, count, k, p, words + p * stride); });
    // Task t is the pair (i, j) of the triangle i ≤ j, row by row.
    for_each_task(panels * (panels + 1) / 2, [&](int64_t t) {
      int64_t i = 0;
      for (; t >= panels - i; ++i) t -= panels - i;
      add_panels_avx512bf16(words + i * stride, words + (i + t) * stride, (count + 1) / 2, k, i,
                            i + t, sums);
    });
  }
}

}  // namespace

void add_gram(at::Tensor& gram, const at::Tensor& x) {
  OSP_CHECK(x.dim() == 2 && gram.dim() == 2 && gram.size(0) == x.size(1) &&
                gram.size(1) == x.size(1) && gram.is_contiguous() &&
                gram.scalar_type() == at::kFloat,
            "rows of {} numbers and their fp32 sums", x.size(-1));
  if (x.scalar_type() == at::kBFloat16 && has_avx512_bf16()) return add_bf16(gram, x.contiguous());
  add_fp32(gram, x.to(at::kFloat));
}

at::Tensor gram_reference(const at::Tensor& x) {
  const at::Tensor wide = x.to(at::kDouble);
  return at::mm(wide.t(), wide);
}

}  // namespace osp
