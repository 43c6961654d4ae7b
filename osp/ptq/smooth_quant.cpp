#include "osp/ptq/smooth_quant.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr double kSmallestMagnitude = 1e-5;

bool follows_norm(const ScaleSite& site) {
  return site.input == TapPoint::attention_input || site.input == TapPoint::mlp_input;
}

at::Tensor smoothing_scale(const ParameterStore& store, const ScaleSite& site,
                           const at::Tensor& largest_x, double alpha) {
  at::Tensor largest_w;
  for (const int64_t reader : site.readers) {
    const at::Tensor w = store.master(reader).abs().amax(0).to(at::kDouble);
    largest_w = largest_w.defined() ? at::maximum(largest_w, w) : w;
  }
  // The reference's floors, and below them parts of the largest number: they never decide for all.
  const auto floor_of = [](const at::Tensor& x) {
    return kSmallestMagnitude * std::min(1.0, x.max().item<double>());
  };
  const at::Tensor s =
      largest_x.pow(alpha) / largest_w.clamp_min(floor_of(largest_w)).pow(1 - alpha);
  // A channel that is always zero stays as it is.
  return at::where(largest_x.gt(0), s.clamp_min(floor_of(s)), at::ones_like(s));
}

}  // namespace

void check_smooth_quant(const ModelConfig& config) {
  if (config.norm_before() && config.norm != "layer-plain") return;
  fail(ErrorCode::unsupported,
       "SmoothQuant needs a norm with weights before attention or the feed-forward network, which "
       "take the scale: {}",
       config.norm == "none" ? "this model has no norms there"
       : config.norm_after   ? "in this family the norms follow the blocks"
                             : "in this family the norms have none");
}

void smooth_quant_block(ParameterStore& store, int64_t layer,
                        const ChannelStatisticsTap& statistics, const SmoothQuantOptions& options) {
  const c10::NoGradGuard no_graph;
  FoldingCheck check(store, layer);
  for (const ScaleSite& site : scale_sites(store, layer)) {
    if (!follows_norm(site)) continue;
    const at::Tensor s = smoothing_scale(store, site, statistics.of(site).largest, options.alpha);
    fold_scale(store, site, s);
    check.fold(site, s);
  }
  check.expect_unchanged("SmoothQuant");
}

constexpr TransformRow kSmoothQuant = {
    .name = "smoothquant",
    .sentence = "outliers of activations after norms are moved into the weights",
    .default_rounding = "rtn",
    .table_roundings = {"rtn"},
    .needs_calibration = true,
    .check_serves = [](const ModelConfig& config,
                       const QuantizeRequest&) { check_smooth_quant(config); },
    .make = [](const TransformInputs&) -> PartTransform {
      return {.kept_rows = 1,
              .apply = [](ParameterStore& part, const ChannelStatisticsTap* statistics) {
                if (statistics != nullptr) smooth_quant_block(part, *part.part, *statistics);
              }};
    }};

}  // namespace osp
