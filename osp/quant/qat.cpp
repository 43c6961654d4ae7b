#include "osp/quant/qat.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "osp/base/error.h"
#include "osp/ops/hadamard.h"
#include "osp/ops/with_gradient.h"
#include "osp/quant/grid.h"

namespace osp {
namespace {

constexpr std::array<std::pair<TapPoint, std::string_view>, 4> kInputs = {{
    {TapPoint::attention_input, "attention_input"},
    {TapPoint::attention_output, "attention_output"},
    {TapPoint::mlp_input, "mlp_input"},
    {TapPoint::mlp_product, "mlp_product"},
}};

TapPoint parse_input_point(std::string_view name, const std::string& text) {
  for (const auto& [point, known] : kInputs) {
    if (name == known) return point;
  }
  fail(
      ErrorCode::usage,
      "qat.points = \"{}\": expected all, or names of attention_input, attention_output, mlp_input "
      "and mlp_product separated by commas",
      text);
}

bool is_linear_input(TapPoint point) {
  return std::any_of(kInputs.begin(), kInputs.end(),
                     [&](const auto& input) { return input.first == point; });
}

}  // namespace

std::set<TapPoint> parse_input_points(const std::string& text) {
  std::set<TapPoint> points;
  if (text == "all") {
    for (const auto& [point, name] : kInputs) points.insert(point);
    return points;
  }
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    points.insert(parse_input_point(std::string_view(text).substr(begin, end - begin), text));
    begin = end + 1;
  }
  return points;
}

bool QatTap::wants(TapPoint point, int64_t layer) const {
  if (is_linear_input(point) && !points_.contains(point)) return false;
  return FakeQuantTap::wants(point, layer);
}

at::Tensor QatTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (!wants(point, layer)) return x;
  at::Tensor y;
  {
    const at::NoGradGuard no_grad;
    y = FakeQuantTap::at(point, layer, x.detach());
  }
  const bool rotated = point == TapPoint::query || point == TapPoint::key;
  return with_gradient(x, y, [rotated](const at::Tensor& dy) {
    return rotated ? hadamard_transform(dy, {.transposed = true}) : dy;
  });
}

at::Tensor QatTap::weight(int64_t parameter, const at::Tensor& w) {
  const at::Tensor values = w.detach();
  at::Tensor y;
  {
    const at::NoGradGuard no_grad;
    y = FakeQuantTap::weight(parameter, values);
  }
  if (y.is_same(values)) return w;
  return with_gradient(w, y, [](const at::Tensor& dy) { return dy; });
}

at::Tensor QatTap::quantized_weight(const at::Tensor& w) const {
  return fake_quantize_symmetric(w, bits().weights.bits, /*clipping_search=*/false);
}

}  // namespace osp
