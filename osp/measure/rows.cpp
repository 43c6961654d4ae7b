#include "osp/measure/rows.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <vector>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr int64_t kBlockElements = 1 << 18;  // 1 MiB of floats: stays in the second-level cache

}  // namespace

RowStatistics row_statistics(std::span<const float> row) {
  RowStatistics result;
  result.moments = moments_of(row, result.largest);
  // The largest is not NaN; the mean is, if any number is.
  if (!std::isfinite(result.moments.mean)) result.largest = std::numeric_limits<float>::infinity();
  return result;
}

void for_each_row_block(const at::Tensor& x, const RowVisitor& visit) {
  OSP_CHECK(x.dim() >= 1, "a tensor without a channel dimension");
  const int64_t width = x.size(-1);
  if (x.numel() == 0) return;
  const at::Tensor rows_ND = x.detach().reshape({-1, width});
  const int64_t num_rows = rows_ND.size(0);
  const int64_t block_rows = std::max<int64_t>(1, kBlockElements / width);
  std::vector<RowStatistics> statistics;
  for (int64_t begin = 0; begin < num_rows; begin += block_rows) {
    const int64_t rows = std::min(block_rows, num_rows - begin);
    const at::Tensor block =
        rows_ND.narrow(0, begin, rows).to(at::kCPU, at::kFloat).contiguous();  // no copy if it is
    const float* data = block.const_data_ptr<float>();
    statistics.assign(static_cast<size_t>(rows), {});
    at::parallel_for(0, rows, std::max<int64_t>(1, 16384 / width),
                     [&](int64_t first, int64_t last) {
                       for (int64_t row = first; row < last; ++row) {
                         statistics[static_cast<size_t>(row)] =
                             row_statistics({data + row * width, static_cast<size_t>(width)});
                       }
                     });
    visit(begin, {data, static_cast<size_t>(rows * width)}, statistics);
  }
}

void add_to_histogram(Histogram& histogram, std::span<const float> numbers) {
  std::mutex mutex;
  at::parallel_for(
      0, static_cast<int64_t>(numbers.size()), 1 << 16, [&](int64_t first, int64_t last) {
        Histogram part;
        part.add(numbers.subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)));
        const std::lock_guard lock(mutex);
        histogram.merge(part);  // integer counts: the order of merging does not show
      });
}

}  // namespace osp
