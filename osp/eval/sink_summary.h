// Attention sinks as JSON (docs/formats.md, "attention_sinks"), as a table, and in one sentence.
// Tested by tests/python/test_analyze.py.
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/measure/attention_sinks.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

// Sums over all heads, from which the sentence is made.
struct SinkTotals {
  // All heads; those with a share above kSinkShare for the first token; the same for any token.
  int64_t heads = 0, first_heads = 0, strongest_heads = 0;
  double first_share = 0, strongest_share = 0;  // means over all heads
  // Means over the heads whose strongest key is a sink, over all heads if there are none.
  double sink_logit = 0, other_logit = 0;
  double key_ratio = 0, value_ratio = 0, residual_ratio = 0;  // norm at the sink over the others'

  // Part of the gap that comes from other logits being below 0, in [0, 1]. 1: the head does nothing
  // by driving the other logits down; 0: by driving the sink's logit up.
  double pushed_down() const;
};

SinkTotals sink_totals(const AttentionSinks& sinks);

// `tokenizer` spells tokens; nullptr leaves their text null.
Json sink_json(const AttentionSinks& sinks, const Tokenizer* tokenizer);

// One line per layer, and the sentence.
std::string sink_text(const AttentionSinks& sinks);
std::string sink_verdict(const AttentionSinks& sinks);

}  // namespace osp
