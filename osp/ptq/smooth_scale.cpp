#include "osp/ptq/smooth_scale.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/maximum.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/model/transformer.h"
#include "osp/ptq/rotation_store.h"

namespace osp {
namespace {

// Without those that the store does not have.
std::vector<int64_t> existing(std::vector<int64_t> parameters) {
  std::erase(parameters, -1);
  return parameters;
}

at::Tensor shared_heads(const ScaleSite& site, const at::Tensor& channels) {
  return channels.view({-1, site.group, site.head_size});
}

void check_norm_carries_scales(const ParameterStore& store, const ScaleSite& site) {
  for (const int64_t maker : site.makers) {
    const ParameterSpec& spec = store.specs[static_cast<size_t>(maker)];
    OSP_CHECK(spec.shape[0] == site.channels / site.group,
              "{}: {} weights for {} channels; fuse first", spec.name, spec.shape[0],
              site.channels);
  }
}

}  // namespace

std::vector<ScaleSite> scale_sites(const ParameterStore& store, int64_t layer) {
  const ModelConfig& config = store.config;
  using Role = ParameterRole;
  // Indices of parameters by role; those that the model lacks are left out.
  const auto weight_and_bias = [&](Role role) {
    return existing({store.find(role, layer), store.find_bias(role, layer)});
  };
  const auto weights = [&](const std::vector<Role>& roles) {
    std::vector<int64_t> found;
    for (const Role role : roles) found.push_back(store.find(role, layer));
    return existing(std::move(found));
  };
  // The four inputs of a block, as in a model without experts.
  std::vector<ScaleSite> sites = {{.input = TapPoint::attention_input,
                                   .layer = layer,
                                   .readers = weights({Role::query, Role::key, Role::value}),
                                   .makers = weight_and_bias(Role::input_norm),
                                   .channels = config.width},
                                  {.input = TapPoint::attention_output,
                                   .layer = layer,
                                   .readers = weights({Role::attention_output}),
                                   .makers = weight_and_bias(Role::value),
                                   .channels = config.heads * config.head_size,
                                   .group = config.heads / config.kv_heads,
                                   .head_size = config.head_size},
                                  {.input = TapPoint::mlp_input,
                                   .layer = layer,
                                   .readers = weights({Role::gate, Role::up}),
                                   .followers = weights({Role::router}),
                                   .makers = weight_and_bias(Role::post_attention_norm),
                                   .channels = config.width},
                                  {.input = TapPoint::mlp_product,
                                   .layer = layer,
                                   .readers = weights({Role::down}),
                                   .makers = weight_and_bias(Role::up),
                                   .channels = config.inner}};
  // All experts read what the norm makes; nothing is folded in front of their down projections.
  for (int64_t expert = 0; config.routes(layer) && expert < config.experts; ++expert) {
    for (const Role role : {Role::gate, Role::up}) {
      sites[2].readers.push_back(store.find(role, layer, expert));
    }
  }
  // Readers of one norm in two branches share a scale.
  if (config.shared_norm) {  // branches side by side behind one norm
    sites[0].readers.insert(sites[0].readers.end(), sites[2].readers.begin(),
                            sites[2].readers.end());
  }
  // Take away sites whose scale could not be folded into what makes the input.
  std::erase_if(sites, [&](const ScaleSite& site) {
    return site.makers.empty() || site.readers.empty() ||
           (site.input == TapPoint::mlp_input && config.norm_after) ||
           (site.input == TapPoint::attention_output && config.clip_qkv > 0) ||
           (site.input == TapPoint::mlp_product && !config.gated);
  });
  for (const ScaleSite& site : sites) check_norm_carries_scales(store, site);
  return sites;
}

at::Tensor expand_channels(const ScaleSite& site, const at::Tensor& free_channels) {
  if (site.group == 1) return free_channels;
  const at::Tensor heads = free_channels.view({-1, 1, site.head_size});
  return heads.expand({heads.size(0), site.group, site.head_size}).reshape({-1});
}

at::Tensor largest_of_shared(const ScaleSite& site, const at::Tensor& channels) {
  return site.group == 1 ? channels : shared_heads(site, channels).amax(1).reshape({-1});
}

at::Tensor mean_of_shared(const ScaleSite& site, const at::Tensor& channels) {
  return site.group == 1 ? channels : shared_heads(site, channels).mean(1).reshape({-1});
}

void fold_scale(ParameterStore& store, const ScaleSite& site, const at::Tensor& s) {
  const c10::NoGradGuard no_graph;
  const at::Tensor scale = s.to(at::kDouble);
  OSP_CHECK(scale.gt(0.0).logical_and(scale.isfinite()).all().item<bool>(),
            "scales of layer {} are not positive", site.layer);
  const at::Tensor columns = expand_channels(site, scale);
  for (const auto& parameters : {site.readers, site.followers}) {
    for (const int64_t parameter : parameters) {
      at::Tensor w = store.master(parameter);
      w.copy_(w.to(at::kDouble) * columns);
    }
  }
  for (const int64_t maker : site.makers) {
    at::Tensor w = store.master(maker);
    w.copy_(w.to(at::kDouble) / (w.dim() == 2 ? scale.unsqueeze(1) : scale));
  }
  sync_compute(store);
}

FoldingCheck::FoldingCheck(const ParameterStore& store, int64_t layer)
    : wide_(copy_in_fp64(store)), layer_(layer) {
  constexpr int64_t kRows = 16;
  const c10::NoGradGuard no_graph;
  const int64_t width = store.config.width;
  std::vector<float> rows(static_cast<size_t>(kRows * width));
  RandomStream(1, "folding check").fill_normal(rows, 0.0, 1.0);
  input_ = at::from_blob(rows.data(), {1, kRows, width}, at::kFloat).to(at::kDouble);
  output_ = forward_block(wide_, layer_, input_, {});
}

void FoldingCheck::fold(const ScaleSite& site, const at::Tensor& s) { fold_scale(wide_, site, s); }

double FoldingCheck::expect_unchanged(const char* what) const {
  const c10::NoGradGuard no_graph;
  const at::Tensor now = forward_block(wide_, layer_, input_, {});
  const double added = output_.sub(input_).abs().max().item<double>();
  const double moved = now.sub(output_).abs().max().item<double>();
  // A block that is not finite says nothing; the calibration refuses it.
  OSP_CHECK(!(moved > kTolerance * added),
            "{}: the scales of layer {} moved its output by {} of {}", what, layer_, moved, added);
  return added > 0 ? moved / added : 0.0;
}

ChannelStatisticsTap::ChannelStatisticsTap(int64_t kept_rows, int64_t expected_rows)
    : stride_(std::max<int64_t>(1, (expected_rows + kept_rows - 1) / kept_rows)) {}

bool ChannelStatisticsTap::wants(TapPoint point, int64_t) const {
  return point == TapPoint::attention_input || point == TapPoint::attention_output ||
         point == TapPoint::mlp_input || point == TapPoint::mlp_product;
}

at::Tensor ChannelStatisticsTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (!wants(point, layer)) return x;
  ChannelStatistics& s = statistics_[{point, layer}];
  const at::Tensor rows = x.detach().reshape({-1, x.size(-1)});
  const at::Tensor magnitude = rows.abs();
  const at::Tensor largest = magnitude.amax(0).to(at::kDouble);
  const at::Tensor sum = magnitude.sum(0, /*keepdim=*/false, at::kDouble);
  // Rows whose number among all that passed is a multiple of the stride.
  const int64_t first = (stride_ - s.num_rows % stride_) % stride_;
  at::Tensor kept = rows.narrow(0, 0, 0).to(at::kFloat);
  if (first < rows.size(0)) {
    kept = rows.index_select(0, at::arange(first, rows.size(0), stride_)).to(at::kFloat);
  }
  s.largest = s.largest.defined() ? at::maximum(s.largest, largest) : largest;
  s.magnitude = s.magnitude.defined() ? s.magnitude + sum : sum;
  s.rows = s.rows.defined() ? at::cat({s.rows, kept}) : kept;
  s.num_rows += rows.size(0);
  return x;
}

const ChannelStatistics& ChannelStatisticsTap::of(const ScaleSite& site) const {
  const auto found = statistics_.find({site.input, site.layer});
  OSP_CHECK(found != statistics_.end(), "nothing passed an input of layer {}", site.layer);
  return found->second;
}

}  // namespace osp
