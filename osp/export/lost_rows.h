// Rows of which a narrower type leaves nothing.
//
// Tested by gguf_export_test.cpp.
#pragma once

#include <ATen/TensorOperators.h>

#include <string>

#include "osp/base/error.h"

namespace osp {

// A sentence with the tensor's name if it has live rows (elements, where it has one dimension)
// whose largest magnitude is at most `largest_lost`, which become zeros; else "".
inline std::string lost_rows_text(const std::string& name, const at::Tensor& weight,
                                  double largest_lost) {
  const at::Tensor largest = weight.reshape({weight.size(0), -1}).abs().amax(1);
  const at::Tensor lost = largest.gt(0).logical_and(largest.le(largest_lost));
  const int64_t count = lost.sum().item<int64_t>();
  if (count == 0) return "";
  return fmt::format(
      "{}: {} of {} rows have weights and become zeros in this type, the first is row {}", name,
      count, weight.size(0), lost.to(at::kLong).argmax().item<int64_t>());
}

// Magnitudes up to here round to zero in fp16.
inline constexpr double kLargestLostInHalf = 0x1p-25;

}  // namespace osp
