// Attention sinks: which keys collect the attention of a head, and by what means.
//
// For one sequence of T tokens and one head, with logits z_ts = q_t · k_s / sqrt(K), attention
// a_ts = softmax over the keys s ≤ t that query t sees, and Q_s the queries that see key s:
//
//   share of key s     α_s = Σ_{t ∈ Q_s} a_ts / |Q_s|         (Gu et al. 2024, arXiv 2410.10781)
//   sink logit         z̄_s = mean of z_ts over t ∈ Q_s, t > s
//   logit of others    ō_s = mean over the same t of the mean of z_tu over the keys u ≠ s it sees
//   gap                g_s = z̄_s − ō_s
//
// Softmax sees the gap alone, yet a head can open it from either side: by driving the sink's
// logits above 0 or the others' below. That is the no-op measure: z̄ against −ō.
//
// Each is taken for the first token and for the strongest key, the one of largest α among the first
// T/2 (later ones are seen by few queries), then averaged over sequences. A head is a sink head
// where α > 0.3, the threshold of Gu et al. Logits are formed for some rows of one head at a time,
// so memory does not grow with T² nor with the number of tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "osp/measure/histogram.h"
#include "osp/measure/moments.h"
#include "osp/measure/rows.h"
#include "osp/model/parameters.h"
#include "osp/model/tap.h"

namespace osp {

inline constexpr double kSinkShare = 0.3;  // ε of Gu et al. 2024

// A query that sees fewer keys has no kurtosis of its logits: of n numbers it is below n − 2.
inline constexpr int64_t kLeastKeysForKurtosis = 16;

// One sequence and head, per key s.
struct HeadColumns {
  std::vector<double> share;        // α_s
  std::vector<double> sink_logit;   // z̄_s; NaN for a key that no later query sees
  std::vector<double> other_logit;  // ō_s; likewise
};

// Distribution of a head's logits over all pairs of a query and a key that it sees.
struct LogitStatistics {
  Moments moments;
  KurtosisMean kurtosis;    // of a query's logits over its keys, averaged over queries
  Histogram first, others;  // logits of the first key; of all others
};

// q and k [T, K] float32 on the CPU, contiguous; a query sees the `window` newest keys, 0: all.
// Adds to `logits` if it is not null. `softcap` c > 0: logits are c · tanh(z / c). `learned`: a
// logit beside those of the keys (attention.h), whose part of the attention belongs to no key.
HeadColumns measure_head(const at::Tensor& q_TK, const at::Tensor& k_TK, int64_t window,
                         LogitStatistics* logits, double softcap = 0.0,
                         std::optional<double> learned = {});

// The learned sinks of every block [H]; empty for a model without them.
std::vector<at::Tensor> learned_sinks(const ParameterStore& store);

// Naive twin of the columns: all logits in fp64 and the equations above as they stand.
HeadColumns measure_head_reference(const at::Tensor& q_TK, const at::Tensor& k_TK, int64_t window);

// A key and the rest of its sequence, sums over sequences.
struct SinkSums {
  double share = 0, sink_logit = 0, other_logit = 0;
  double key_norm = 0, other_key_norm = 0;  // Euclidean, of the head; others: mean over positions
  double value_norm = 0, other_value_norm = 0;
  double residual_norm = 0, other_residual_norm = 0;  // of the state in front of the block
};

struct HeadSinks {
  SinkSums first, strongest;
  int64_t strongest_is_first = 0;              // sequences
  std::vector<double> share_by_position;       // Σ over sequences of α_s, s < T/2
  std::map<int64_t, int64_t> strongest_token;  // sequences by the token id of the strongest key
  LogitStatistics logits;
};

struct AttentionSinks {
  int64_t sequences = 0, length = 0;
  std::vector<std::vector<HeadSinks>> heads;  // [layer][query head]
};

// Watches queries, keys, values and the stream. Where quantizers replace them it must come after.
class AttentionSinkTap : public Tap {
 public:
  explicit AttentionSinkTap(const ModelConfig& config, std::vector<at::Tensor> learned = {});

  // Before each forward pass: its tokens [B, T], T ≥ 4 and the same in all; or that the pass is not
  // to be measured.
  void begin(const at::Tensor& tokens_BT);
  void skip() { tokens_BT_.reset(); }

  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override;

  const AttentionSinks& sinks() const { return sinks_; }

 private:
  void measure_layer(int64_t layer, const at::Tensor& value_BHTK);

  ModelConfig config_;
  std::vector<at::Tensor> learned_;  // fp32 on the CPU
  AttentionSinks sinks_;
  at::Tensor tokens_BT_, query_, key_, residual_norm_BT_;
};

}  // namespace osp
