#include "osp/measure/expert_tap.h"

namespace osp {

ExpertTap::ExpertTap(const ParameterStore& store) : store_(store) {
  for (int64_t layer = 0; layer < store.config.layers; ++layer) {
    if (!store.config.routes(layer)) continue;
    for (int64_t expert = 0; expert < store.config.experts; ++expert) experts_[{layer, expert}];
  }
}

void ExpertTap::linear_input(std::span<const int64_t> parameters, const at::Tensor& x) {
  const ParameterSpec& spec = store_.specs[static_cast<size_t>(parameters.front())];
  if (spec.expert < 0) return;
  ExpertStatistics& statistics = experts_.at({spec.layer, spec.expert});
  const TapPoint point = input_point(spec.role);
  OSP_CHECK(point == TapPoint::mlp_input || point == TapPoint::mlp_product,
            "{} is no layer of an expert", spec.name);
  const bool enters = point == TapPoint::mlp_input;
  KurtosisMean& kurtosis = enters ? statistics.input : statistics.down_input;
  if (enters) statistics.tokens += x.size(0);
  for_each_row_block(x, [&](int64_t, std::span<const float>, auto per_row) {
    for (const RowStatistics& row : per_row) {
      if (row.moments.m2 != 0.0) kurtosis.add(excess_kurtosis(row.moments));
    }
  });
}

}  // namespace osp
