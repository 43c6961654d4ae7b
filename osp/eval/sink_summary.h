// Attention sinks as JSON (docs/formats.md, "attention_sinks"), as a table, and in one sentence.
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/measure/attention_sinks.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

// What the sentence rests on.
struct SinkTotals {
  int64_t heads = 0, first_heads = 0, strongest_heads = 0;  // all; α > kSinkShare there
  double first_share = 0, strongest_share = 0;              // means over all heads
  // Means over the heads whose strongest key is a sink, over all heads if there are none.
  double sink_logit = 0, other_logit = 0;
  double key_ratio = 0, value_ratio = 0, residual_ratio = 0;  // norm at the sink over the others'

  // Part of the gap that comes from the others' logits below 0, in [0, 1]: 1, a no-op by driving
  // logits down; 0, by driving the sink's up.
  double pushed_down() const;
};

SinkTotals sink_totals(const AttentionSinks& sinks);

// `tokenizer` spells tokens; null without.
Json sink_json(const AttentionSinks& sinks, const Tokenizer* tokenizer);

// A line per layer and the sentence.
std::string sink_text(const AttentionSinks& sinks);
std::string sink_verdict(const AttentionSinks& sinks);

// The q-quantile of a histogram, linear within a bin; NaN of an empty one.
double quantile(const Histogram& histogram, double q);

// Occupied bins joined in pairs until there are at most `bins`: {low, high, counts}.
Json coarse_histogram_json(const Histogram& histogram, size_t bins);

}  // namespace osp
