#include "osp/model/packed_experts.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <fmt/ranges.h>

#include <array>
#include <atomic>
#include <cmath>
#include <span>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/formats/e2m1.h"

namespace osp {
namespace {

constexpr int64_t kBlock = 32, kBytes = kBlock / 2;
constexpr uint8_t kNan = 255;

std::span<const uint8_t> bytes_of(const TensorView* view, const std::vector<int64_t>& shape,
                                  const std::string& name) {
  if (view == nullptr) fail(ErrorCode::damaged, "{} is missing", name);
  if (view->dtype != "U8" || view->shape != shape) {
    fail(ErrorCode::damaged, "{} is {} [{}], expected U8 [{}]", name, view->dtype,
         fmt::join(view->shape, ", "), fmt::join(shape, ", "));
  }
  return {reinterpret_cast<const uint8_t*>(view->data.data()), view->data.size()};
}

// The numbers of all codes.
std::array<float, 16> numbers() {
  std::array<float, 16> values{};
  for (size_t code = 0; code < 16; ++code) values[code] = code < 8 ? kE2m1[code] : -kE2m1[code - 8];
  return values;
}

}  // namespace

at::Tensor unpack_mxfp4_experts(const std::vector<int64_t>& shape,
                                const std::function<const TensorView*(const std::string&)>& find,
                                const std::string& where) {
  const int64_t experts = shape[0], columns = shape[1], rows = shape[2];
  if (columns % kBlock != 0) {
    fail(ErrorCode::damaged, "{}: blocks of {} do not divide the {} inputs", where, kBlock,
         columns);
  }
  const int64_t groups = columns / kBlock;
  const TensorView *const packed = find("_blocks"), *const exponents = find("_scales");
  const auto blocks = bytes_of(packed, {experts, rows, groups, kBytes}, where + "_blocks");
  const auto scales = bytes_of(exponents, {experts, rows, groups}, where + "_scales");
  // Look for scales that are no numbers before anything is allocated.
  for (size_t i = 0; i < scales.size(); ++i) {
    if (scales[i] == kNan) {
      fail(ErrorCode::damaged, "{}_scales holds 255, the NaN of E8M0, at element {}", where, i);
    }
  }
  const at::Tensor values = at::empty({experts, rows, columns}, at::kFloat);
  float* const out = values.mutable_data_ptr<float>();
  const std::array<float, 16> table = numbers();
  std::atomic<bool> beyond = false;
  at::parallel_for(0, experts * rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin * groups; block < end * groups; ++block) {
      const float scale = std::ldexp(1.0f, scales[static_cast<size_t>(block)] - 127);
      for (int64_t i = 0; i < kBytes; ++i) {
        const uint8_t byte = blocks[static_cast<size_t>(block * kBytes + i)];
        float* const pair = out + block * kBlock + 2 * i;
        pair[0] = table[byte & 15] * scale;
        pair[1] = table[byte >> 4] * scale;
        if (!std::isfinite(pair[0]) || !std::isfinite(pair[1])) beyond = true;
      }
    }
  });
  for (int64_t i = 0; beyond && i < values.numel(); ++i) {
    if (std::isfinite(out[i])) continue;
    const auto scale = static_cast<int>(scales[static_cast<size_t>(i / kBlock)]);
    fail(ErrorCode::damaged, "{}_blocks: block {} has a number beyond fp32 by its scale of 2^{}",
         where, i / kBlock, scale - 127);
  }
  release_pages(packed->data);
  release_pages(exponents->data);
  return values.transpose(1, 2);
}

}  // namespace osp
