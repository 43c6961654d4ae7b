// Taps that watch outliers in the forward pass; they change nothing.
//
// A model of L layers has L + 1 residual states: state 0 is the embedding, state i the residual
// stream after block i. Ours (OutlierTap) measures them as they are, in real context; the
// reference's way (ClippedKurtosisTap) wants sequences of length 1 and takes as its last state the
// one after the final norm. The two are separate classes so that their numbers cannot be mixed.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "osp/measure/point_profile.h"
#include "osp/measure/rows.h"
#include "osp/model/tap.h"

namespace osp {

// The largest |x| and its place.
struct LargestActivation {
  double value = -1.0;    // |x|; infinite if something was not finite
  int64_t layer = -1;     // index of the residual state, 0 … L
  int64_t sequence = -1;  // index of the sequence in the measured tokens
  int64_t position = -1;  // within the sequence
  int64_t channel = -1;
  int64_t token = -1;  // id at that place

  // Keeps the larger one; among equals the one that comes first by (layer, sequence, position).
  void merge(const LargestActivation& other);
};

// Distribution of all numbers that passed a tap point.
struct PointStatistics {
  Moments moments;
  Histogram histogram;
  PointProfile profile;

  void merge(const PointStatistics& other);
};

class OutlierTap : public Tap {
 public:
  // With `histograms`, every tap point but attention_logits is counted; otherwise only the residual
  // states are looked at.
  explicit OutlierTap(int64_t layers, bool histograms = false);

  // Before each forward pass: its tokens [B, T], and the index of their first sequence among all.
  void begin(const at::Tensor& tokens_BT, int64_t first_sequence);

  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override;

  // Adds what another tap saw of the same model.
  void merge(const OutlierTap& other);

  const std::vector<KurtosisMean>& kurtosis() const { return kurtosis_; }  // per state
  const LargestActivation& largest() const { return largest_; }
  // Keyed by (tap point, layer). The residual states are filed under (residual, 0 … L); the
  // embedding is state 0.
  const std::map<std::pair<TapPoint, int64_t>, PointStatistics>& points() const { return points_; }

 private:
  void measure_state(int64_t state, const at::Tensor& x_BTD);

  bool histograms_;
  std::vector<KurtosisMean> kurtosis_;
  LargestActivation largest_;
  std::map<std::pair<TapPoint, int64_t>, PointStatistics> points_;
  at::Tensor tokens_BT_;
  int64_t first_sequence_ = 0;
};

// Kurtosis of a point's rows in sequences of length 1.
struct SingleTokenKurtosis {
  KurtosisMean plain;    // as in context
  KurtosisMean clipped;  // the reference's
};

// The reference's mode. Feed it sequences of length 1, each with a weight: the number of times that
// the token occurs.
class ClippedKurtosisTap : public Tap {
 public:
  explicit ClippedKurtosisTap(int64_t layers, bool all_points = false);

  // Before each forward pass: the weight of each of its rows.
  void begin(std::vector<double> weights);

  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override;

  const std::vector<KurtosisMean>& kurtosis() const { return kurtosis_; }  // per state
  // With `all_points`: both formulas over rows at each point, keyed as OutlierTap::points.
  const std::map<std::pair<TapPoint, int64_t>, SingleTokenKurtosis>& points() const {
    return points_;
  }

 private:
  bool all_points_;
  std::vector<KurtosisMean> kurtosis_;
  std::map<std::pair<TapPoint, int64_t>, SingleTokenKurtosis> points_;
  std::vector<double> weights_;
};

// The largest logit that a query gives to a key it may attend to (causal, and of the same document
// if those are given), with its layer and head.
class AttentionLogitTap : public Tap {
 public:
  // Before a forward pass with a document mask: its documents [B, T].
  void begin(const at::Tensor& documents_BT) { documents_BT_ = documents_BT; }

  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& logits_BHTT) override;

  double largest() const { return largest_; }
  int64_t layer() const { return layer_; }
  int64_t head() const { return head_; }

 private:
  at::Tensor documents_BT_;
  double largest_ = -1e300;
  int64_t layer_ = -1, head_ = -1;
};

}  // namespace osp
