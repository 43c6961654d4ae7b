// One call that measures a model's outliers on given tokens: used by training's validation slice
// and by `osp analyze`.
//
// Tested by outlier_tap_test.cpp and tests/python/test_analyze.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "osp/measure/attention_sinks.h"
#include "osp/measure/expert_tap.h"
#include "osp/measure/outlier_tap.h"
#include "osp/model/parameters.h"

namespace osp {

struct OutlierOptions {
  at::Tensor documents_BT = {};     // int32; if defined, attention stays within a document
  at::Tensor targets_BT = {};       // int64, -1: not scored; if defined, the loss is measured too
  bool clipped = true;              // measure the reference's kurtosis too
  bool histograms = false;          // measure the distribution at every tap point, and its profile
  Tap* watcher = nullptr;           // sees every point in context, in front of the quantizers
  Tap* quantizers = nullptr;        // replaces tensors in every forward pass
  int64_t sink_tokens = 0;          // tokens searched for attention sinks, whole sequences; 0: none
  int64_t attention_sequences = 2;  // sequences whose attention logits are measured; 0: none
  int64_t attention_length = 512;   // their first tokens, at most: logits take memory T²
  int64_t batch_tokens = 8192;      // tokens of one forward pass, at least one sequence
  std::function<void(int64_t done, int64_t total)> progress = {};  // tokens
};

struct OutlierReport {
  int64_t tokens = 0;
  double loss = 0.0;  // mean over the scored targets; NaN without any
  // Excess kurtosis, ours: mean over tokens for each of the L + 1 residual states, and their mean.
  double mean = 0.0;
  std::vector<double> per_layer;
  // The reference's mode (see ClippedKurtosisTap); NaN and empty if not asked for.
  double clipped_mean = 0.0;
  std::vector<double> clipped_per_layer;
  LargestActivation largest;
  // Largest logit that a query gives to a key it attends to, NaN if not asked for.
  double largest_attention_logit = 0.0;
  int64_t attention_layer = -1, attention_head = -1;
  std::map<std::pair<TapPoint, int64_t>, PointStatistics> points;  // see OutlierTap::points
  std::map<std::pair<TapPoint, int64_t>, SingleTokenKurtosis> single_token_points;
  StatisticsByExpert experts;  // with histograms, of a model with experts
  AttentionSinks sinks;        // no sequences: not asked for, or sequences shorter than 4
};

// tokens_BT: int64 ids, each below the vocabulary. Does not depend on batch_tokens beyond the
// rounding of the forward pass.
OutlierReport measure_outliers(const ParameterStore& store, const at::Tensor& tokens_BT,
                               const OutlierOptions& options = {});

}  // namespace osp
