#include "osp/measure/attention_sinks.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "osp/base/error.h"
#include "osp/ops/attention.h"

namespace osp {
namespace {

constexpr int64_t kRowsAtATime = 128;  // of logits: 1 MiB at T = 2048
constexpr float kUnseen = -std::numeric_limits<float>::infinity();

int64_t first_key(int64_t query, int64_t window) {
  return window > 0 ? std::max<int64_t>(0, query - window + 1) : 0;
}
int64_t last_query(int64_t key, int64_t window, int64_t T) {
  return window > 0 ? std::min(T, key + window) - 1 : T - 1;
}

at::Tensor plain(const at::Tensor& x) { return x.detach().to(at::kCPU, at::kFloat).contiguous(); }

// Sums over queries, per key.
struct ColumnSums {
  std::vector<double> mass, logit, weighted;  // Σ a_ts; over t > s: Σ z_ts, Σ z_ts / (keys − 1)
};

void add_query(int64_t t, std::span<const float> logits, std::span<const float> attention,
               int64_t begin, ColumnSums& sums) {
  const int64_t keys = t - begin + 1;
  const double weight = keys > 1 ? 1.0 / static_cast<double>(keys - 1) : 0.0;
  double* mass = sums.mass.data() + begin;
  double* logit = sums.logit.data() + begin;
  double* weighted = sums.weighted.data() + begin;
  for (int64_t i = 0; i < keys; ++i) mass[i] += attention[i];
  for (int64_t i = 0; i + 1 < keys; ++i) {
    logit[i] += logits[i];
    weighted[i] += logits[i] * weight;
  }
}

void add_logits(std::span<const float> seen, int64_t begin, const Moments& moments,
                LogitStatistics& logits) {
  logits.moments.merge(moments);
  if (static_cast<int64_t>(seen.size()) >= kLeastKeysForKurtosis && moments.m2 != 0.0) {
    logits.kurtosis.add(excess_kurtosis(moments));
  }
  const size_t from_first = begin == 0 ? 1 : 0;
  logits.first.add(seen.first(from_first));
  logits.others.add(seen.subspan(from_first));
}

// Mean over positions of all but one.
double mean_of_others(std::span<const float> norms, int64_t position) {
  double sum = 0.0;
  for (const float norm : norms) sum += norm;
  return (sum - norms[static_cast<size_t>(position)]) / static_cast<double>(norms.size() - 1);
}

// Norms of all positions of a head, and of the stream.
struct PositionNorms {
  std::span<const float> key, value, residual;
};

void add_sink(SinkSums& sums, const HeadColumns& columns, const PositionNorms& norms, int64_t s) {
  const size_t i = static_cast<size_t>(s);
  sums.share += columns.share[i];
  sums.sink_logit += columns.sink_logit[i];
  sums.other_logit += columns.other_logit[i];
  sums.key_norm += norms.key[i];
  sums.other_key_norm += mean_of_others(norms.key, s);
  sums.value_norm += norms.value[i];
  sums.other_value_norm += mean_of_others(norms.value, s);
  sums.residual_norm += norms.residual[i];
  sums.other_residual_norm += mean_of_others(norms.residual, s);
}

void add_sequence(HeadSinks& head, const HeadColumns& columns, const PositionNorms& norms,
                  const int64_t* tokens) {
  const size_t candidates = head.share_by_position.size();
  for (size_t s = 0; s < candidates; ++s) head.share_by_position[s] += columns.share[s];
  const auto begin = columns.share.begin();
  const int64_t strongest =
      std::max_element(begin, begin + static_cast<int64_t>(candidates)) - begin;
  add_sink(head.first, columns, norms, 0);
  add_sink(head.strongest, columns, norms, strongest);
  if (strongest == 0) ++head.strongest_is_first;
  ++head.strongest_token[tokens[strongest]];
}

}  // namespace

HeadColumns measure_head(const at::Tensor& q_TK, const at::Tensor& k_TK, int64_t window,
                         LogitStatistics* logits, double softcap, std::optional<double> learned) {
  const int64_t T = q_TK.size(0);
  const size_t size = static_cast<size_t>(T);
  ColumnSums sums{std::vector<double>(size), std::vector<double>(size), std::vector<double>(size)};
  std::vector<double> row_means(size + 1);  // prefix sums of (Σ_u z_tu) / (keys − 1)
  const at::Tensor k_KT = k_TK.t() / std::sqrt(static_cast<double>(q_TK.size(1)));
  for (int64_t first = 0; first < T; first += kRowsAtATime) {
    // Logits of some queries, and their attention; −∞ where a query does not see a key.
    const int64_t rows = std::min(kRowsAtATime, T - first), keys = first + rows;
    at::Tensor z = at::mm(q_TK.narrow(0, first, rows), k_KT.narrow(1, 0, keys));
    if (softcap > 0) z.div_(softcap).tanh_().mul_(softcap);
    float* data = z.mutable_data_ptr<float>();
    for (int64_t t = first; t < keys; ++t) {
      float* row = data + (t - first) * keys;
      std::fill(row, row + first_key(t, window), kUnseen);
      std::fill(row + t + 1, row + keys, kUnseen);
    }
    at::Tensor a = at::softmax(z, -1);
    if (learned) {
      const at::Tensor log_sum = at::logsumexp(z, {-1}, /*keepdim=*/true);
      a.mul_(share_of_keys(log_sum, at::scalar_tensor(*learned)));
    }
    for (int64_t t = first; t < keys; ++t) {
      // Add what each query gives to the sums of the keys that it sees.
      const int64_t begin = first_key(t, window), count = t - begin + 1;
      const int64_t offset = (t - first) * keys + begin;
      const std::span<const float> seen(data + offset, static_cast<size_t>(count));
      const Moments moments = moments_of(seen);
      row_means[static_cast<size_t>(t + 1)] = row_means[static_cast<size_t>(t)];
      if (count > 1) {
        row_means[static_cast<size_t>(t + 1)] +=
            moments.mean * static_cast<double>(count) / static_cast<double>(count - 1);
      }
      add_query(t, seen, {a.const_data_ptr<float>() + offset, static_cast<size_t>(count)}, begin,
                sums);
      if (logits != nullptr) add_logits(seen, begin, moments, *logits);
    }
  }
  // Turn the sums over the queries that see a key into means.
  HeadColumns columns{std::move(sums.mass), std::move(sums.logit), std::move(sums.weighted)};
  for (int64_t s = 0; s < T; ++s) {
    const size_t i = static_cast<size_t>(s);
    const int64_t last = last_query(s, window, T);
    const double later = static_cast<double>(last - s);  // 0 / 0 below: NaN
    const double all = row_means[static_cast<size_t>(last + 1)] - row_means[i + 1];
    columns.share[i] /= later + 1.0;
    columns.sink_logit[i] /= later;
    columns.other_logit[i] = (all - columns.other_logit[i]) / later;
  }
  return columns;
}

HeadColumns measure_head_reference(const at::Tensor& q_TK, const at::Tensor& k_TK, int64_t window) {
  const int64_t T = q_TK.size(0);
  const at::Tensor z_TT = at::mm(q_TK.to(at::kDouble), k_TK.to(at::kDouble).t()) /
                          std::sqrt(static_cast<double>(q_TK.size(1)));
  const double* z = z_TT.const_data_ptr<double>();
  HeadColumns columns;
  for (int64_t s = 0; s < T; ++s) {
    double share = 0, sink = 0, other = 0;
    const int64_t last = last_query(s, window, T);
    for (int64_t t = s; t <= last; ++t) {
      double sum = 0, others = 0;
      const int64_t begin = first_key(t, window);
      for (int64_t u = begin; u <= t; ++u) {
        sum += std::exp(z[t * T + u] - z[t * T + s]);
        if (u != s) others += z[t * T + u];
      }
      share += 1.0 / sum;
      if (t == s) continue;
      sink += z[t * T + s];
      other += others / static_cast<double>(t - begin);
    }
    const double later = static_cast<double>(last - s);
    columns.share.push_back(share / (later + 1.0));
    columns.sink_logit.push_back(sink / later);
    columns.other_logit.push_back(other / later);
  }
  return columns;
}

std::vector<at::Tensor> learned_sinks(const ParameterStore& store) {
  std::vector<at::Tensor> sinks;
  for (int64_t layer = 0; store.config.attention_sinks && layer < store.config.layers; ++layer) {
    sinks.push_back(plain(store.master(store.find(ParameterRole::attention_sink, layer))));
  }
  return sinks;
}

AttentionSinkTap::AttentionSinkTap(const ModelConfig& config, std::vector<at::Tensor> learned)
    : config_(config), learned_(std::move(learned)) {
  sinks_.heads.assign(static_cast<size_t>(config.layers),
                      std::vector<HeadSinks>(static_cast<size_t>(config.heads)));
}

void AttentionSinkTap::begin(const at::Tensor& tokens_BT) {
  const int64_t length = tokens_BT.size(1);
  OSP_CHECK(length >= 4 && (sinks_.length == 0 || sinks_.length == length), "sequences of {}",
            length);
  tokens_BT_ = tokens_BT.to(at::kCPU, at::kLong).contiguous();
  sinks_.sequences += tokens_BT.size(0);
  if (sinks_.length == length) return;
  sinks_.length = length;
  for (auto& layer : sinks_.heads) {
    for (HeadSinks& head : layer) head.share_by_position.assign(static_cast<size_t>(length / 2), 0);
  }
}

bool AttentionSinkTap::wants(TapPoint point, int64_t) const {
  if (!tokens_BT_.defined()) return false;
  return point == TapPoint::query || point == TapPoint::key || point == TapPoint::value ||
         point == TapPoint::embedding || point == TapPoint::residual;
}

at::Tensor AttentionSinkTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (!wants(point, layer)) return x;
  if (point == TapPoint::query) {
    query_ = plain(x);
  } else if (point == TapPoint::key) {
    key_ = plain(x);
  } else if (point == TapPoint::value) {
    measure_layer(layer, plain(x));
  } else {
    residual_norm_BT_ = at::linalg_vector_norm(plain(x), 2, at::IntArrayRef{-1});
  }
  return x;
}

void AttentionSinkTap::measure_layer(int64_t layer, const at::Tensor& value_BHTK) {
  const int64_t batch = query_.size(0), heads = query_.size(1), T = query_.size(2);
  const int64_t per_group = heads / key_.size(1);
  const int64_t window = config_.window_of(layer);
  const at::Tensor key_norm = at::linalg_vector_norm(key_, 2, at::IntArrayRef{-1});
  const at::Tensor value_norm = at::linalg_vector_norm(value_BHTK, 2, at::IntArrayRef{-1});
  const auto norms_of = [&](const at::Tensor& norms, int64_t row) {
    return std::span(norms.const_data_ptr<float>() + row * T, static_cast<size_t>(T));
  };
  // A head belongs to one thread, which takes its sequences in order: the result does not depend on
  // the number of threads.
  at::parallel_for(0, heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t h = begin; h < end; ++h) {
      HeadSinks& head = sinks_.heads[static_cast<size_t>(layer)][static_cast<size_t>(h)];
      std::optional<double> learned;
      if (!learned_.empty()) {
        learned = learned_[static_cast<size_t>(layer)].const_data_ptr<float>()[h];
      }
      for (int64_t b = 0; b < batch; ++b) {
        const int64_t group = h / per_group, row = b * key_.size(1) + group;
        const HeadColumns columns = measure_head(query_[b][h], key_[b][group], window, &head.logits,
                                                 config_.attention_softcap, learned);
        const PositionNorms norms{.key = norms_of(key_norm, row),
                                  .value = norms_of(value_norm, row),
                                  .residual = norms_of(residual_norm_BT_, b)};
        add_sequence(head, columns, norms, tokens_BT_.const_data_ptr<int64_t>() + b * T);
      }
    }
  });
}

}  // namespace osp
