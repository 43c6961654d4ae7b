#include "osp/eval/weight_summary.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "osp/base/json_number.h"
#include "osp/measure/rows.h"
#include "osp/quant/grid.h"

namespace osp {
namespace {

constexpr double kNoValue = std::numeric_limits<double>::quiet_NaN();

std::vector<double> root_means(const at::Tensor& squares_RC, int64_t dimension) {
  const at::Tensor means = squares_RC.mean(dimension, false, at::kDouble).sqrt().contiguous();
  const double* data = means.const_data_ptr<double>();
  return {data, data + means.numel()};
}

double weight_sqnr_db(const at::Tensor& w, int64_t bits) {
  const at::Tensor error = fake_quantize_symmetric(w, bits, /*clipping_search=*/true) - w;
  return 10 * std::log10(w.square().sum(at::kDouble).item<double>() /
                         error.square().sum(at::kDouble).item<double>());
}

}  // namespace

double largest_over_median(std::vector<double> rms) {
  if (rms.empty()) return kNoValue;
  const double largest = *std::max_element(rms.begin(), rms.end());
  const auto middle = rms.begin() + static_cast<int64_t>(rms.size() / 2);
  std::nth_element(rms.begin(), middle, rms.end());
  return *middle > 0 ? largest / *middle : kNoValue;
}

std::vector<WeightSummary> summarize_weights(const ParameterStore& store, int64_t bits) {
  std::vector<WeightSummary> weights;
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const ParameterSpec& spec = store.specs[i];
    if (spec.shape.size() != 2 || spec.kind == ParameterKind::positions) continue;
    const at::Tensor w = store.master(static_cast<int64_t>(i)).to(at::kCPU, at::kFloat);
    const at::Tensor squares = w.square();
    WeightSummary summary{
        .name = spec.name, .layer = spec.layer, .rows = w.size(0), .columns = w.size(1)};
    // Moments and the largest entry in one pass over the rows.
    Moments moments;
    for_each_row_block(w, [&](int64_t first, std::span<const float> rows, auto per_row) {
      for (size_t r = 0; r < per_row.size(); ++r) {
        moments.merge(per_row[r].moments);
        if (!(per_row[r].largest > summary.largest)) continue;
        const auto row = rows.subspan(r * w.size(1), w.size(1));
        summary.largest = per_row[r].largest;
        summary.row = first + static_cast<int64_t>(r);
        summary.column =
            std::max_element(row.begin(), row.end(),
                             [](float a, float b) { return std::abs(a) < std::abs(b); }) -
            row.begin();
      }
    });
    // Spread of channels, and the SQNR of matrices that are quantized.
    summary.excess_kurtosis = excess_kurtosis(moments);
    summary.input_spread = largest_over_median(root_means(squares, 0));
    summary.output_spread = largest_over_median(root_means(squares, 1));
    summary.sqnr_db = spec.kind == ParameterKind::matrix ? weight_sqnr_db(w, bits) : kNoValue;
    weights.push_back(summary);
  }
  return weights;
}

Json weight_json(const std::vector<WeightSummary>& weights) {
  Json list = Json::array();
  for (const WeightSummary& w : weights) {
    list.push_back({{"name", w.name},
                    {"layer", w.layer < 0 ? Json(nullptr) : Json(w.layer)},
                    {"shape", {w.rows, w.columns}},
                    {"excess_kurtosis", finite_or_null(w.excess_kurtosis)},
                    {"largest", finite_or_null(w.largest)},
                    {"row", w.row},
                    {"column", w.column},
                    {"input_channel_spread", finite_or_null(w.input_spread)},
                    {"output_channel_spread", finite_or_null(w.output_spread)},
                    {"sqnr_db", finite_or_null(w.sqnr_db)}});
  }
  return list;
}

}  // namespace osp
