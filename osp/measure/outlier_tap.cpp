#include "osp/measure/outlier_tap.h"

#include <ATen/ops/masked_fill.h>
#include <ATen/ops/max.h>
#include <ATen/ops/ones.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "osp/base/error.h"

namespace osp {
namespace {

// Place of the first number of a row whose magnitude is `largest` (the first that is not finite if
// that is infinite).
int64_t find_channel(std::span<const float> row, float largest) {
  for (size_t channel = 0; channel < row.size(); ++channel) {
    const float magnitude = std::abs(row[channel]);
    if (magnitude == largest || (std::isinf(largest) && !std::isfinite(magnitude))) {
      return static_cast<int64_t>(channel);
    }
  }
  return 0;  // the mean of huge finite numbers overflowed: no single channel is to blame
}

void add_kurtosis(KurtosisMean& mean, const Moments& moments, double value, double weight) {
  if (moments.m2 != 0.0) mean.add(value, weight);
}

}  // namespace

void LargestActivation::merge(const LargestActivation& other) {
  if (other.layer < 0) return;
  const bool larger = other.value > value;
  const bool earlier =
      other.value == value &&
      std::tie(other.layer, other.sequence, other.position) < std::tie(layer, sequence, position);
  if (layer < 0 || larger || earlier) *this = other;
}

void PointStatistics::merge(const PointStatistics& other) {
  moments.merge(other.moments);
  histogram.merge(other.histogram);
  profile.merge(other.profile);
}

OutlierTap::OutlierTap(int64_t layers, bool histograms)
    : histograms_(histograms), kurtosis_(static_cast<size_t>(layers + 1)) {}

void OutlierTap::begin(const at::Tensor& tokens_BT, int64_t first_sequence) {
  tokens_BT_ = tokens_BT.to(at::kCPU, at::kLong).contiguous();
  first_sequence_ = first_sequence;
}

bool OutlierTap::wants(TapPoint point, int64_t) const {
  if (point == TapPoint::attention_logits) return false;
  return histograms_ || point == TapPoint::embedding || point == TapPoint::residual;
}

at::Tensor OutlierTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (point == TapPoint::embedding) {
    measure_state(0, x);
  } else if (point == TapPoint::residual) {
    measure_state(layer + 1, x);
  } else if (histograms_) {
    PointStatistics& statistics = points_[{point, layer}];
    const PointProfile::Layout layout = PointProfile::layout_of(x, first_sequence_);
    for_each_row_block(x, [&](int64_t first, std::span<const float> rows, auto per_row) {
      for (const RowStatistics& row : per_row) statistics.moments.merge(row.moments);
      add_to_histogram(statistics.histogram, rows);
      statistics.profile.add(layout, first, rows, per_row);
    });
  }
  return x;
}

void OutlierTap::measure_state(int64_t state, const at::Tensor& x_BTD) {
  OSP_CHECK(tokens_BT_.defined(), "OutlierTap::begin was not called");
  const int64_t width = x_BTD.size(-1), length = x_BTD.size(1);
  OSP_CHECK(x_BTD.size(0) * length == tokens_BT_.numel(), "states of {} tokens, {} announced",
            x_BTD.size(0) * length, tokens_BT_.numel());
  // Kurtosis of every row, and the largest activation.
  const int64_t* tokens = tokens_BT_.const_data_ptr<int64_t>();
  KurtosisMean& kurtosis = kurtosis_[static_cast<size_t>(state)];
  LargestActivation best;
  for_each_row_block(x_BTD, [&](int64_t first, std::span<const float> rows, auto per_row) {
    for (size_t i = 0; i < per_row.size(); ++i) {
      const RowStatistics& row = per_row[i];
      add_kurtosis(kurtosis, row.moments, excess_kurtosis(row.moments), 1.0);
      if (best.layer >= 0 && !(row.largest > best.value)) continue;
      const int64_t index = first + static_cast<int64_t>(i);
      best = {.value = row.largest,
              .layer = state,
              .sequence = first_sequence_ + index / length,
              .position = index % length,
              .channel = find_channel(rows.subspan(i * width, width), row.largest),
              .token = tokens[index]};
    }
    // The distribution at this state.
    if (!histograms_) return;
    PointStatistics& statistics = points_[{TapPoint::residual, state}];
    for (const RowStatistics& row : per_row) statistics.moments.merge(row.moments);
    add_to_histogram(statistics.histogram, rows);
    statistics.profile.add(PointProfile::layout_of(x_BTD, first_sequence_), first, rows, per_row);
  });
  largest_.merge(best);
}

void OutlierTap::merge(const OutlierTap& other) {
  OSP_CHECK(kurtosis_.size() == other.kurtosis_.size(), "taps of different models");
  for (size_t state = 0; state < kurtosis_.size(); ++state) {
    kurtosis_[state].merge(other.kurtosis_[state]);
  }
  largest_.merge(other.largest_);
  for (const auto& [key, statistics] : other.points_) points_[key].merge(statistics);
}

ClippedKurtosisTap::ClippedKurtosisTap(int64_t layers, bool all_points)
    : all_points_(all_points), kurtosis_(static_cast<size_t>(layers + 1)) {}

void ClippedKurtosisTap::begin(std::vector<double> weights) { weights_ = std::move(weights); }

bool ClippedKurtosisTap::wants(TapPoint point, int64_t layer) const {
  if (all_points_) return point != TapPoint::attention_logits;
  const int64_t layers = static_cast<int64_t>(kurtosis_.size()) - 1;
  return point == TapPoint::embedding || point == TapPoint::final_state ||
         (point == TapPoint::residual && layer < layers - 1);
}

at::Tensor ClippedKurtosisTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (!wants(point, layer)) return x;
  OSP_CHECK(x.dim() >= 3 && x.size(-2) == 1, "sequences of length 1 expected");
  OSP_CHECK(x.size(0) == static_cast<int64_t>(weights_.size()), "{} rows, {} weights", x.size(0),
            weights_.size());
  // The residual state that the point shows, if it shows one.
  const int64_t last = static_cast<int64_t>(kurtosis_.size()) - 1;
  KurtosisMean* state = nullptr;
  if (point == TapPoint::embedding) state = &kurtosis_[0];
  if (point == TapPoint::residual && layer + 1 < last) state = &kurtosis_[layer + 1];
  if (point == TapPoint::final_state) state = &kurtosis_[last];
  // The entry of the point, keyed as OutlierTap's: the embedding is residual state 0.
  const TapPoint filed = point == TapPoint::embedding ? TapPoint::residual : point;
  SingleTokenKurtosis unused;
  SingleTokenKurtosis& at_point =
      all_points_ ? points_[{filed, point == TapPoint::residual ? layer + 1 : layer}] : unused;
  // Each row counts as often as its token occurs.
  const int64_t rows_per_token = x.dim() == 4 ? x.size(1) : 1;
  for_each_row_block(x, [&](int64_t first, std::span<const float>, auto per_row) {
    for (size_t i = 0; i < per_row.size(); ++i) {
      const Moments& moments = per_row[i].moments;
      const double weight = weights_[(static_cast<size_t>(first) + i) / rows_per_token];
      const double value = clipped_kurtosis(moments);
      if (state != nullptr) add_kurtosis(*state, moments, value, weight);
      if (!all_points_) continue;
      add_kurtosis(at_point.clipped, moments, value, weight);
      add_kurtosis(at_point.plain, moments, excess_kurtosis(moments), weight);
    }
  });
  return x;
}

bool AttentionLogitTap::wants(TapPoint point, int64_t) const {
  return point == TapPoint::attention_logits;
}

at::Tensor AttentionLogitTap::at(TapPoint point, int64_t layer, const at::Tensor& logits_BHTT) {
  if (point != TapPoint::attention_logits) return logits_BHTT;
  const int64_t queries = logits_BHTT.size(2), keys = logits_BHTT.size(3);
  at::Tensor unseen =  // by a query: later keys, keys of other documents
      at::ones({queries, keys}, logits_BHTT.options().dtype(at::kBool)).triu(1 + keys - queries);
  if (documents_BT_.defined()) {
    const at::Tensor other = documents_BT_.unsqueeze(2).ne(documents_BT_.unsqueeze(1));
    unseen = other.logical_or(unseen).unsqueeze(1);
  }
  const at::Tensor per_head_H = logits_BHTT.detach()
                                    .masked_fill(unseen, -std::numeric_limits<double>::infinity())
                                    .amax({0, 2, 3});
  const auto [value, head] = per_head_H.max(0);
  const double largest = value.item<double>();
  if (layer_ < 0 || largest > largest_ || std::isnan(largest)) {
    largest_ = largest;
    layer_ = layer;
    head_ = head.item<int64_t>();
  }
  return logits_BHTT;
}

}  // namespace osp
