#include "osp/model/pass_positions.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "osp/base/error.h"
#include "osp/ops/fused_attention.h"

namespace osp {

PassPositions::PassPositions(const ModelConfig& config, int64_t length,
                             const ForwardOptions& options, const at::Tensor& like)
    : config_(config), device_(like.device()), documents_BT_(options.documents_BT) {
  if (!options.segments.empty()) {
    OSP_CHECK(!options.training && !documents_BT_.defined(),
              "packed tokens have no gradients and no documents");
    begin_packed(length, options.segments);
    return;
  }
  // Positions and their rotations.
  first_position_ = options.cache != nullptr ? options.cache->length : 0;
  const int64_t total = first_position_ + length;
  if (!config_.learned_positions) {
    check_rotary_growth(config_.rope_scaling, first_position_, total);
    set_rope(make_rope_tables(total, config_.rotary_size, config_.rope_theta, config_.rope_scaling),
             make_rope_tables(config_.local_rope_theta > 0 ? total : 0, config_.rotary_size,
                              config_.local_rope_theta));
    set_query_scale(at::arange(first_position_, total));
  }
  // Which keys each query sees: a number per query for fused attention, else a mask.
  if (first_position_ == 0 && config_.attention_softcap == 0 && !config_.attention_sinks &&
      has_fused_attention(like.device(), like.scalar_type(), config_.head_size)) {
    all_keys_.first_BT = first_keys(documents_BT_, length, 0);
    window_keys_.first_BT = first_keys(documents_BT_, length, config_.window);
  } else {
    all_keys_.mask = additive_mask(length, total, 0, like);
    window_keys_.mask = additive_mask(length, total, config_.window, like);
  }
}

// Positions of packed tokens and the rows of the rotary tables that they need.
void PassPositions::begin_packed(int64_t length, std::span<const Segment> segments) {
  std::vector<int64_t> positions, rows;
  int64_t longest = 0;
  for (const Segment& segment : segments) {
    longest = std::max(longest, segment.position() + segment.length);
  }
  // The rows of a text that is long for longrope stand behind those of all others.
  const RopeScaling& scaling = config_.rope_scaling;
  const bool two_tables = beyond_original(scaling, longest);
  const int64_t short_rows = two_tables ? scaling.original_context : longest;
  for (const Segment& segment : segments) {
    const int64_t first = segment.position(), total = first + segment.length;
    if (!config_.learned_positions) check_rotary_growth(scaling, first, total);
    const int64_t table = beyond_original(scaling, total) ? short_rows : 0;
    for (int64_t p = first; p < total; ++p) {
      positions.push_back(p);
      rows.push_back(table + p);
    }
  }
  OSP_CHECK(static_cast<int64_t>(positions.size()) == length, "segments of {} tokens for {}",
            positions.size(), length);
  packed_positions_ = at::tensor(positions);
  if (config_.learned_positions) return;
  const auto tables = [&](int64_t count) {
    return make_rope_tables(count, config_.rotary_size, config_.rope_theta, scaling);
  };
  RopeTables all = tables(short_rows);
  if (two_tables) {
    const RopeTables grown = tables(longest);
    all = {at::cat({all.cos, grown.cos}), at::cat({all.sin, grown.sin})};
  }
  RopeTables local;
  if (config_.local_rope_theta > 0) {
    local = make_rope_tables(longest, config_.rotary_size, config_.local_rope_theta);
    local = {local.cos.index_select(0, packed_positions_),
             local.sin.index_select(0, packed_positions_)};
  }
  const at::Tensor chosen = at::tensor(rows);
  set_rope({all.cos.index_select(0, chosen), all.sin.index_select(0, chosen)}, local);
  set_query_scale(packed_positions_);
}

// The tables, on the device of the weights.
void PassPositions::set_rope(const RopeTables& all, const RopeTables& local) {
  rope_ = {all.cos.to(device_), all.sin.to(device_)};
  if (config_.local_rope_theta > 0) local_rope_ = {local.cos.to(device_), local.sin.to(device_)};
}

void PassPositions::set_query_scale(const at::Tensor& positions) {
  const RopeScaling& scaling = config_.rope_scaling;
  if (scaling.query_growth == 0) return;
  const int64_t count = positions.numel();
  const int64_t* position = positions.const_data_ptr<int64_t>();
  std::vector<double> scales;
  for (int64_t i = 0; i < count; ++i) scales.push_back(query_scale(scaling, position[i]));
  if (std::all_of(scales.begin(), scales.end(), [](double scale) { return scale == 1.0; })) return;
  query_scale_ = at::tensor(scales).view({count, 1, 1}).to(device_);
}

at::Tensor PassPositions::rotated(int64_t layer, const at::Tensor& x_BTHK) const {
  const RopeTables& tables = rope_of(layer);
  const int64_t K = config_.head_size, R = config_.rotary_size;
  if (R == K) return rope(x_BTHK, tables, first_position());
  return at::cat(
      {rope(x_BTHK.narrow(3, 0, R), tables, first_position()), x_BTHK.narrow(3, R, K - R)}, 3);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> PassPositions::split_rotated(
    int64_t layer, const at::Tensor& qkv_BTC) const {
  return split_rope(qkv_BTC, config_.heads, config_.kv_heads, rope_of(layer), first_position());
}

at::Tensor PassPositions::scaled_queries(const at::Tensor& q_BTHK) const {
  at::Tensor q = q_BTHK;
  if (config_.attention_multiplier > 0) {
    q = q * (config_.attention_multiplier * std::sqrt(static_cast<double>(config_.head_size)));
  }
  return query_scale_.defined() ? q * query_scale_.to(q.scalar_type()) : q;
}

at::Tensor PassPositions::learned(const at::Tensor& table, int64_t length) const {
  if (packed_positions_.defined()) {
    return table.index_select(0, (packed_positions_ + config_.position_offset).to(table.device()));
  }
  OSP_CHECK(first_position_ + length <= config_.context, "position {} of a table for {}",
            first_position_ + length - 1, config_.context);
  return table.narrow(0, config_.position_offset + first_position_, length);
}

at::Tensor PassPositions::mask(int64_t layer, int64_t length, int64_t total,
                               const at::Tensor& like) const {
  return additive_mask(length, total, config_.window_of(layer), like);
}

at::Tensor PassPositions::additive_mask(int64_t length, int64_t total, int64_t window,
                                        const at::Tensor& like) const {
  at::Tensor mask;
  if (documents_BT_.defined()) mask = document_mask(documents_BT_, like.scalar_type());
  if (window <= 0 || total <= window) return mask;
  const at::Tensor newest = window_mask(length, total, window, like);
  return mask.defined() ? newest + mask : newest;
}

}  // namespace osp
