#include "osp/ptq/awq.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/where.h>

#include <c10/core/GradMode.h>
#include <algorithm>

#include <limits>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"

namespace osp {
namespace {

constexpr int64_t kRatios = 20;
constexpr int64_t kClipGrid = 20;
constexpr int64_t kClipSteps = 10;
constexpr double kSmallestScale = 1e-4;

// m^r, divided by the geometric mean of its ends.
at::Tensor candidate_scale(const at::Tensor& magnitude, double ratio) {
  const at::Tensor power = magnitude.pow(ratio);
  const at::Tensor s = power.clamp_min(kSmallestScale * std::min(1.0, power.max().item<double>()));
  return s / (s.max() * s.min()).sqrt();
}

// Rounded without the clipping search, which would take most of the time.
at::Tensor rounded(const at::Tensor& weight, WeightGrid grid, const std::string& name) {
  grid.clipping_search = false;
  return round_to_nearest(weight, grid, name).dequantized();
}

// The error of a scale: Σ ‖Q(W diag(s)) (x / s) − W x‖² over the layers of the site.
double output_error(const ParameterStore& store, const ScaleSite& site, const at::Tensor& x,
                    const at::Tensor& s, const WeightGrid& grid) {
  const at::Tensor columns = expand_channels(site, s).to(at::kFloat);
  double error = 0.0;
  for (const int64_t reader : site.readers) {
    const at::Tensor w = store.master(reader).to(at::kFloat);
    const std::string& name = store.specs[static_cast<size_t>(reader)].name;
    const at::Tensor difference = rounded(w * columns, grid, name) / columns - w;
    error += at::matmul(x, difference.t()).square().sum(at::kDouble).item<double>();
  }
  return error;
}

struct Search {
  AwqChoice choice;
  at::Tensor scale;  // one per free channel
};

Search search_scale(const ParameterStore& store, const ScaleSite& site,
                    const ChannelStatistics& statistics, const AwqOptions& options) {
  const at::Tensor magnitude = mean_of_shared(site, statistics.mean());
  Search best;
  best.choice.input = "input of " + store.specs[static_cast<size_t>(site.readers[0])].name;
  for (int64_t i = 0; i < kRatios; ++i) {
    leave_if_stopped("AWQ searched its scales");
    const double ratio = static_cast<double>(i) / kRatios;
    const at::Tensor s = candidate_scale(magnitude, ratio);
    const double error = output_error(store, site, statistics.rows, s, options.grid);
    if (i == 0) best.choice.error_before = error;
    if (i > 0 && !(error < best.choice.error_after)) continue;
    best.choice.ratio = ratio;
    best.choice.error_after = error;
    best.scale = s;
  }
  return best;
}

// True if the weights of a layer that reads a scaled input are clipped: not those of queries and
// keys, as in the reference, because only the product of both matters there.
bool is_clipped(ParameterRole role) {
  const std::optional<BlockLinear> layer = block_linear(role);
  OSP_CHECK(layer, "role {} reads no scaled input", static_cast<int>(role));
  switch (*layer) {
    case BlockLinear::query:
    case BlockLinear::key:
      return false;
    case BlockLinear::value:
    case BlockLinear::attention_output:
    case BlockLinear::gate:
    case BlockLinear::up:
    case BlockLinear::down:
      return true;
  }
  OSP_CHECK(false, "unknown linear layer {}", static_cast<int>(*layer));
}

// The weights that read the input x [n, channels], clipped.
void clip_readers(ParameterStore& store, const ScaleSite& site, const at::Tensor& x,
                  const WeightGrid& grid) {
  for (const int64_t reader : site.readers) {
    if (!is_clipped(store.specs[static_cast<size_t>(reader)].role)) continue;
    at::Tensor w = store.master(reader);
    w.copy_(awq_clipped(w.to(at::kFloat), x, grid));
  }
  sync_compute(store);
}

}  // namespace

at::Tensor awq_clipped(const at::Tensor& weight, const at::Tensor& x, const WeightGrid& grid) {
  const c10::NoGradGuard no_graph;
  const int64_t group = grid.group == 0 ? weight.size(1) : grid.group;
  WeightGrid whole = grid;
  whole.group = 0;
  at::Tensor result = at::empty_like(weight);
  // Search the limits of each group of columns; all rows at once.
  for (int64_t begin = 0; begin < weight.size(1); begin += group) {
    const at::Tensor w = weight.narrow(1, begin, group);
    const at::Tensor rows = x.narrow(1, begin, group).to(w.scalar_type());
    const at::Tensor gram = at::matmul(rows.t(), rows);
    const at::Tensor top = w.abs().amax(1, /*keepdim=*/true);
    at::Tensor best_limit = top;
    at::Tensor best_error =
        at::full(top.sizes(), std::numeric_limits<double>::infinity(), top.options());
    for (int64_t i = 0; i < kClipSteps; ++i) {
      const at::Tensor limit = top * (1.0 - static_cast<double>(i) / kClipGrid);
      const at::Tensor clamped = at::maximum(at::minimum(w, limit), -limit);
      const at::Tensor difference = rounded(clamped, whole, "a clipped weight") - w;
      // ‖x dᵀ‖² of each output channel
      const at::Tensor error = (at::matmul(difference, gram) * difference).sum(1, /*keepdim=*/true);
      const at::Tensor better = error < best_error;
      best_limit = at::where(better, limit, best_limit);
      best_error = at::where(better, error, best_error);
    }
    result.narrow(1, begin, group).copy_(at::maximum(at::minimum(w, best_limit), -best_limit));
  }
  return result;
}

std::vector<AwqChoice> awq_block(ParameterStore& store, int64_t layer,
                                 const ChannelStatisticsTap& statistics,
                                 const AwqOptions& options) {
  const c10::NoGradGuard no_graph;
  std::vector<AwqChoice> choices;
  const std::vector<ScaleSite> sites = scale_sites(store, layer);
  // 1. Find and fold the scale of every input.
  std::vector<at::Tensor> inputs;
  FoldingCheck check(store, layer);
  for (const ScaleSite& site : sites) {
    const ChannelStatistics& seen = statistics.of(site);
    const Search search = search_scale(store, site, seen, options);
    fold_scale(store, site, search.scale);
    check.fold(site, search.scale);
    choices.push_back(search.choice);
    inputs.push_back(seen.rows / expand_channels(site, search.scale).to(at::kFloat));
  }
  check.expect_unchanged("AWQ");
  // 2. Clip the weights. All scales come first, because those of o and down change v and up.
  for (size_t i = 0; options.clip && i < sites.size(); ++i) {
    clip_readers(store, sites[i], inputs[i], options.grid);
  }
  return choices;
}

// Scales are folded wherever a model has room for them (scale_sites).
constexpr TransformRow kAwq = {
    .name = "awq",
    .sentence = "weights of channels with large activations are scaled up, then clipped",
    .default_rounding = "rtn",
    .table_roundings = {"rtn"},
    .needs_calibration = true,
    .clips_weights = true,
    .check_serves =
        [](const ModelConfig& config, const QuantizeRequest&) {
          if (!config.has_experts()) return;
          fail(ErrorCode::unsupported,
               "AWQ chooses scales and clips by the inputs that a layer meets, which osp does not "
               "keep apart by expert: use gptq, ffn-hadamard or quarot");
        },
    .make = [](const TransformInputs& inputs) -> PartTransform {
      return {.kept_rows = kAwqTokens,
              .apply = [grid = inputs.grid](ParameterStore& part,
                                            const ChannelStatisticsTap* statistics) {
                if (statistics != nullptr) awq_block(part, *part.part, *statistics, {.grid = grid});
              }};
    }};

}  // namespace osp
