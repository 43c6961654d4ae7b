// Attention of packed tokens: the queries of many texts follow each other without padding, and
// texts that begin alike share the keys of their beginning.
//
// A segment is a run of queries that continues a context: it sees all keys of the context and, of
// its own keys, those up to itself. Shapes: N queries, S rows of keys and values, H heads, Hkv
// heads of keys and values, K head size.
//
// Tested by osp/eval/request_scorer_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace osp {

// Rows of the keys and values.
struct KeyRange {
  int64_t begin = 0;
  int64_t length = 0;
  bool operator==(const KeyRange&) const = default;
};

struct Segment {
  int64_t length = 0;                  // queries
  int64_t slot = 0;                    // row of the first query's own key; the others follow
  std::vector<KeyRange> context = {};  // in the order of the text

  // Position of the first query in its text.
  int64_t position() const;
};

// softmax(q kᵀ / sqrt(K)) v, [N, H, K], for q [N, H, K] and k, v [S, Hkv, K] (last dimension
// contiguous). The queries are those of the segments in their order. `window`: a query sees the
// newest `window` tokens of its text, itself included; 0: all. `softcap` c > 0: softmax of
// c · tanh(z / c), by the twin. `sinks_H`: see attention.h; the keys' share is taken at the end.
//
// The softmax over a context in several ranges is put together from those of the ranges, and
// neighbours with the same range attend to it together, so that nothing is copied:
//   z = log(e^z₁ + e^z₂),   out = out₁ e^(z₁ − z) + out₂ e^(z₂ − z)
// where zᵢ is the log-sum-exp of range i.
at::Tensor segment_attention(const at::Tensor& q_NHK, const at::Tensor& k_SHK,
                             const at::Tensor& v_SHK, std::span<const Segment> segments,
                             int64_t window = 0, double softcap = 0.0,
                             const at::Tensor& sinks_H = {});

// The twin: segment by segment from a copy of its keys, by explicit products in fp32.
at::Tensor segment_attention_reference(const at::Tensor& q_NHK, const at::Tensor& k_SHK,
                                       const at::Tensor& v_SHK, std::span<const Segment> segments,
                                       int64_t window = 0, double softcap = 0.0,
                                       const at::Tensor& sinks_H = {});

}  // namespace osp
