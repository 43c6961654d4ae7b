// Where the tokens of a forward pass stand in their texts, and what follows from it: the rotation
// and scale of queries and keys, rows of learned positions, and the keys that each query sees.
//
// Tested by transformer_test.cpp and tests/python/test_families.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <tuple>

#include "osp/model/config.h"
#include "osp/model/transformer.h"
#include "osp/ops/attention.h"
#include "osp/ops/rope.h"

namespace osp {

class PassPositions {
 public:
  // Of `length` tokens per sequence, after those that the cache holds, or of packed tokens; `like`
  // has the type and the device of the pass. Error(unsupported) for texts that the rotary embedding
  // does not serve (rope_scaling.h). The configuration must outlive it.
  PassPositions(const ModelConfig& config, int64_t length, const ForwardOptions& options,
                const at::Tensor& like);

  // Queries or keys [B, T, heads, K] after the rotary embedding of a block that has one.
  at::Tensor rotated(int64_t layer, const at::Tensor& x_BTHK) const;
  // Queries, keys and values of the joined product [B, T, (H + 2 Hkv) K], rotated, for blocks that
  // rotate whole heads.
  std::tuple<at::Tensor, at::Tensor, at::Tensor> split_rotated(int64_t layer,
                                                               const at::Tensor& qkv_BTC) const;
  // Queries times their factors, so that logits are q kᵀ / sqrt(K).
  at::Tensor scaled_queries(const at::Tensor& q_BTHK) const;

  // Rows of the table of positions for this pass's tokens.
  at::Tensor learned(const at::Tensor& table, int64_t length) const;

  // The keys that queries of a block see in a pass whose sequences begin with it or are in a cache.
  const VisibleKeys& visible(int64_t layer) const {
    return config_.window_of(layer) > 0 ? window_keys_ : all_keys_;
  }
  // The mask of the last `length` of `total` tokens; undefined where causality is all there is.
  at::Tensor mask(int64_t layer, int64_t length, int64_t total, const at::Tensor& like) const;

 private:
  int64_t first_position() const { return first_position_; }  // in the tables
  void begin_packed(int64_t length, std::span<const Segment> segments);
  void set_rope(const RopeTables& all, const RopeTables& local);
  void set_query_scale(const at::Tensor& positions);
  at::Tensor additive_mask(int64_t length, int64_t total, int64_t window,
                           const at::Tensor& like) const;
  const RopeTables& rope_of(int64_t layer) const {
    return config_.rotates_locally(layer) ? local_rope_ : rope_;
  }

  const ModelConfig& config_;
  const at::Device device_;
  const at::Tensor documents_BT_;
  int64_t first_position_ = 0;
  at::Tensor packed_positions_;   // of packed tokens, [N]
  RopeTables rope_, local_rope_;  // of packed tokens: one row for each
  at::Tensor query_scale_;        // fp64 [T, 1, 1]; undefined where all are the same
  VisibleKeys all_keys_;          // of blocks without a window
  VisibleKeys window_keys_;       // of blocks with a window
};

}  // namespace osp
