#include "osp/ops/gram.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/ops/isa.h"
#include "osp/ops/panel_kernels.h"
#include "osp/ops/parallel.h"

namespace osp {
namespace {

constexpr int64_t kColumns = 192;  // columns of a block of the fp32 product
constexpr int64_t kPackedBytes = int64_t{64} << 20;
constexpr int64_t kFewestRows = 512;

void add_fp32(at::Tensor& gram, const at::Tensor& x) {
  const int64_t k = x.size(1);
  if (!x.is_cpu()) {
    gram.addmm_(x.t(), x);
    return;
  }
  for (int64_t begin = 0; begin < k; begin += kColumns) {
    const int64_t width = std::min(kColumns, k - begin);
    gram.narrow(0, begin, width)
        .narrow(1, begin, k - begin)
        .addmm_(x.narrow(1, begin, width).t(), x.narrow(1, begin, k - begin));
  }
}

// Adds the tiles (i, j …) of a row of tiles to the sums [k, k].
void add_tiles(const float* tiles, int64_t i, int64_t j, int64_t count, int64_t k, float* sums) {
  using namespace panel_kernels;
  const int64_t rows = std::min(kPanel, k - i * kPanel);
  for (int64_t t = 0; t < count; ++t) {
    const int64_t columns = std::min(kPanel, k - (j + t) * kPanel);
    for (int64_t r = 0; r < rows; ++r) {
      float* const out = sums + (i * kPanel + r) * k + (j + t) * kPanel;
      const float* const row = tiles + t * kTile + r * kPanel;
      for (int64_t c = 0; c < columns; ++c) out[c] += row[c];
    }
  }
}

// As many rows are packed as kPackedBytes hold; then every pair of blocks of panels is one task.
void add_bf16(at::Tensor& gram, const at::Tensor& x) {
  using namespace panel_kernels;
  // Sizes: columns in panels, panels in blocks, rows as the packed memory allows.
  const int64_t n = x.size(0), k = x.size(1), panels = (k + kPanel - 1) / kPanel;
  const int64_t blocks = (panels + kBlock - 1) / kBlock;
  const int64_t fitting = kPackedBytes / (panels * kPanel * 2) / 2 * 2;
  const int64_t rows_at_a_time = std::min(n + n % 2, std::max(kFewestRows, fitting));
  const int64_t stride = rows_at_a_time / 2 * kPanel;  // words of a panel
  const int64_t row_stride = x.stride(0);
  at::Tensor packed = at::empty({panels * stride}, at::kInt);
  uint32_t* const words = reinterpret_cast<uint32_t*>(packed.data_ptr<int32_t>());
  const uint16_t* const rows = reinterpret_cast<const uint16_t*>(x.const_data_ptr());
  float* const sums = gram.data_ptr<float>();
  for (int64_t begin = 0; begin < n; begin += rows_at_a_time) {
    // Pack these rows of all panels.
    const int64_t count = std::min(rows_at_a_time, n - begin), pairs = (count + 1) / 2;
    for_each_task(panels, [&](int64_t p) {
      pack_panel_avx512bf16(rows + begin * row_stride, count, k, row_stride, p, pairs,
                            words + p * stride);
    });
    // Task t is the pair (row, row + t) of the triangle of blocks, row by row.
    for_each_task(blocks * (blocks + 1) / 2, [&](int64_t t) {
      // Find the pair of blocks.
      int64_t row = 0;
      for (; t >= blocks - row; ++row) t -= blocks - row;
      const int64_t i0 = row * kBlock, j0 = (row + t) * kBlock;
      const int64_t num_i = std::min(kBlock, panels - i0), num_j = std::min(kBlock, panels - j0);
      // Multiply the blocks; on the diagonal row by row, to leave out what lies left of it.
      alignas(64) float tiles[kBlock * kBlock * kTile];
      if (t > 0) {
        multiply_panels_avx512bf16(words + i0 * stride, stride, num_i, words + j0 * stride, stride,
                                   num_j, pairs, false, tiles);
      }
      for (int64_t i = 0; i < num_i; ++i) {
        const int64_t first = t > 0 ? 0 : i;  // on the diagonal only what lies right of it
        const uint32_t* const left = words + (i0 + i) * stride;
        const uint32_t* const right = words + (j0 + first) * stride;
        float* const of_row = tiles + (i * kBlock + first) * kTile;
        if (t == 0) {
          multiply_panels_avx512bf16(left, stride, 1, right, stride, num_j - first, pairs, false,
                                     of_row);
        }
        add_tiles(of_row, i0 + i, j0 + first, num_j - first, k, sums);
      }
    });
  }
}

}  // namespace

void add_gram(at::Tensor& gram, const at::Tensor& x) {
  OSP_CHECK(x.dim() == 2 && gram.dim() == 2 && gram.size(0) == x.size(1) &&
                gram.size(1) == x.size(1) && gram.is_contiguous() &&
                gram.scalar_type() == at::kFloat,
            "rows of {} numbers and their fp32 sums", x.size(-1));
  if (x.scalar_type() == at::kBFloat16 && x.is_cpu() && has_avx512_bf16()) {
    return add_bf16(gram, x.stride(1) == 1 ? x : x.contiguous());
  }
  add_fp32(gram, x.to(at::kFloat));
}

at::Tensor gram_reference(const at::Tensor& x) {
  const at::Tensor wide = x.to(at::kDouble);
  return at::mm(wide.t(), wide);
}

}  // namespace osp
