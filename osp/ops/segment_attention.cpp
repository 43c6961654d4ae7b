#include "osp/ops/segment_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/ops/attention.h"
#include "osp/ops/parallel.h"

namespace osp {
namespace {

// Neighbouring queries that attend to the same keys: to all of them, or causally to their own.
struct Unit {
  int64_t first_query = 0;
  int64_t queries = 0;
  KeyRange keys;
  bool causal = false;
};

// The units in levels. Those of one level have different queries; a query's result is put together
// over the levels.
std::vector<std::vector<Unit>> units_of(std::span<const Segment> segments) {
  std::vector<std::vector<Unit>> levels;
  const auto level = [&](size_t depth) -> std::vector<Unit>& {
    if (levels.size() <= depth) levels.resize(depth + 1);
    return levels[depth];
  };
  const auto last_range = [&](size_t i) {
    return i < segments.size() && !segments[i].context.empty() ? segments[i].context.back()
                                                               : KeyRange{};
  };
  int64_t query = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    const Segment& segment = segments[i];
    std::vector<KeyRange> ranges = segment.context;
    bool causal = true;
    // A single token behind keys that no neighbour shares: one range with its own key.
    if (segment.length == 1 && !ranges.empty() &&
        ranges.back().begin + ranges.back().length == segment.slot &&
        ranges.back() != last_range(i + 1) && (i == 0 || ranges.back() != last_range(i - 1))) {
      ++ranges.back().length;
      causal = false;
    }
    // The ranges of the context; neighbours with the same range share a unit.
    for (size_t depth = 0; depth < ranges.size(); ++depth) {
      std::vector<Unit>& units = level(depth);
      if (!units.empty() && units.back().keys == ranges[depth] && !units.back().causal &&
          units.back().first_query + units.back().queries == query) {
        units.back().queries += segment.length;
      } else {
        units.push_back({query, segment.length, ranges[depth], false});
      }
    }
    // The segment's own keys.
    if (causal) {
      level(ranges.size()).push_back({query, segment.length, {segment.slot, segment.length}, true});
    }
    query += segment.length;
  }
  return levels;
}

// Output [1, G, T, K] per key head and log-sum-exp of one unit. The heads of a group share their
// keys through a stride of 0.
std::tuple<at::Tensor, at::Tensor> attend(const at::Tensor& q_NHK, const at::Tensor& k_SHK,
                                          const at::Tensor& v_SHK, const Unit& unit) {
  const int64_t heads = k_SHK.size(1), group = q_NHK.size(1) / heads, K = q_NHK.size(2);
  const at::Tensor q = q_NHK.narrow(0, unit.first_query, unit.queries)
                           .view({unit.queries, heads, group, K})
                           .permute({1, 2, 0, 3});
  const auto rows = [&](const at::Tensor& x_SHK) {
    return x_SHK.narrow(0, unit.keys.begin, unit.keys.length)
        .transpose(0, 1)
        .unsqueeze(1)
        .expand({heads, group, unit.keys.length, K});
  };
  return at::_scaled_dot_product_flash_attention_for_cpu(q, rows(k_SHK), rows(v_SHK), 0.0,
                                                         unit.causal);
}

// Adds a unit's result to those of the levels before.
void merge(at::Tensor out, at::Tensor log_sum, const at::Tensor& more, const at::Tensor& more_sum) {
  const at::Tensor share = (more_sum - log_sum).sigmoid();
  log_sum.copy_(log_sum.logaddexp(more_sum));
  out.lerp_(more, share.unsqueeze(-1));
}

bool sees_all(std::span<const Segment> segments, int64_t window) {
  return window <= 0 || std::all_of(segments.begin(), segments.end(), [&](const Segment& s) {
           return s.position() + s.length <= window;
         });
}

}  // namespace

int64_t Segment::position() const {
  int64_t sum = 0;
  for (const KeyRange& range : context) sum += range.length;
  return sum;
}

at::Tensor segment_attention(const at::Tensor& q_NHK, const at::Tensor& k_SHK,
                             const at::Tensor& v_SHK, std::span<const Segment> segments,
                             int64_t window, double softcap, const at::Tensor& sinks_H) {
  if (!q_NHK.device().is_cpu() || !sees_all(segments, window) || softcap > 0) {
    return segment_attention_reference(q_NHK, k_SHK, v_SHK, segments, window, softcap, sinks_H);
  }
  const int64_t N = q_NHK.size(0), H = q_NHK.size(1), K = q_NHK.size(2), Hkv = k_SHK.size(1);
  const auto levels = units_of(segments);
  const at::Tensor q = q_NHK.contiguous();
  const at::Tensor out_NHK = at::empty({N, H, K}, q.options());
  const at::ScalarType wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor log_sum_NH = at::empty({N, H}, q.options().dtype(wide));
  // Level by level, the units of a level side by side.
  for (size_t depth = 0; depth < levels.size(); ++depth) {
    const std::vector<Unit>& units = levels[depth];
    for_each_task(static_cast<int64_t>(units.size()), [&](int64_t i) {
      const c10::InferenceMode no_graph;
      const Unit& unit = units[i];
      const auto [part, part_sum] = attend(q, k_SHK, v_SHK, unit);
      at::Tensor out = out_NHK.narrow(0, unit.first_query, unit.queries)
                           .view({unit.queries, Hkv, H / Hkv, K})
                           .permute({1, 2, 0, 3});
      at::Tensor log_sum = log_sum_NH.narrow(0, unit.first_query, unit.queries)
                               .view({unit.queries, Hkv, H / Hkv})
                               .permute({1, 2, 0});
      if (depth == 0) {
        out.copy_(part);
        log_sum.copy_(part_sum);
      } else {
        merge(out, log_sum, part, part_sum);
      }
    });
  }
  if (!sinks_H.defined()) return out_NHK;
  return out_NHK * share_of_keys(log_sum_NH, sinks_H).unsqueeze(-1).to(out_NHK.scalar_type());
}

at::Tensor segment_attention_reference(const at::Tensor& q_NHK, const at::Tensor& k_SHK,
                                       const at::Tensor& v_SHK, std::span<const Segment> segments,
                                       int64_t window, double softcap, const at::Tensor& sinks_H) {
  std::vector<at::Tensor> outputs;
  int64_t query = 0;
  for (const Segment& segment : segments) {
    const auto gathered = [&](const at::Tensor& x_SHK) {
      std::vector<at::Tensor> parts;
      for (const KeyRange& range : segment.context) {
        parts.push_back(x_SHK.narrow(0, range.begin, range.length));
      }
      parts.push_back(x_SHK.narrow(0, segment.slot, segment.length));
      return at::cat(parts).unsqueeze(0);
    };
    const int64_t total = segment.position() + segment.length;
    const at::Tensor mask = window > 0 && total > window
                                ? window_mask(segment.length, total, window, q_NHK)
                                : at::Tensor();
    outputs.push_back(causal_attention_reference(
                          q_NHK.narrow(0, query, segment.length).unsqueeze(0), gathered(k_SHK),
                          gathered(v_SHK), mask, soft_cap(softcap), sinks_H)
                          .squeeze(0));
    query += segment.length;
  }
  return at::cat(outputs);
}

}  // namespace osp
