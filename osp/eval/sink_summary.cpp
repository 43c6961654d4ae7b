#include "osp/eval/sink_summary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/json_number.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

constexpr size_t kTopPositions = 4, kTopTokens = 5;
constexpr size_t kLogitBins = 64;  // enough for a chart; keeps files of thousands of heads small

// Means over n sequences at one key position, and at the others.
Json side_json(const SinkSums& sums, double n) {
  Json json;
  json["share"] = finite_or_null(sums.share / n);
  json["sink_logit"] = finite_or_null(sums.sink_logit / n);
  json["other_logit"] = finite_or_null(sums.other_logit / n);
  json["gap"] = finite_or_null((sums.sink_logit - sums.other_logit) / n);
  json["key_norm"] = finite_or_null(sums.key_norm / n);
  json["other_key_norm"] = finite_or_null(sums.other_key_norm / n);
  json["value_norm"] = finite_or_null(sums.value_norm / n);
  json["other_value_norm"] = finite_or_null(sums.other_value_norm / n);
  json["residual_norm"] = finite_or_null(sums.residual_norm / n);
  json["other_residual_norm"] = finite_or_null(sums.other_residual_norm / n);
  return json;
}

Json top_positions_json(const HeadSinks& head, double n) {
  std::vector<size_t> order(head.share_by_position.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return head.share_by_position[a] > head.share_by_position[b];
  });
  order.resize(std::min(order.size(), kTopPositions));
  Json list = Json::array();
  for (const size_t s : order) {
    list.push_back({{"position", s}, {"share", finite_or_null(head.share_by_position[s] / n)}});
  }
  return list;
}

Json top_tokens_json(const std::map<int64_t, int64_t>& tokens, const Tokenizer* tokenizer) {
  std::vector<std::pair<int64_t, int64_t>> order(tokens.begin(), tokens.end());
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  order.resize(std::min(order.size(), kTopTokens));
  Json list = Json::array();
  for (const auto& [id, sequences] : order) {
    const int32_t narrow = static_cast<int32_t>(id);
    Json spelled = nullptr;
    if (tokenizer != nullptr) {
      spelled = tokenizer::replace_invalid_utf8(tokenizer->decode({&narrow, 1}));
    }
    list.push_back({{"token", spelled}, {"token_id", id}, {"sequences", sequences}});
  }
  return list;
}

// The q-quantile of a histogram, linear within a bin; NaN of an empty histogram.
double histogram_quantile(const Histogram& histogram, double q) {
  const Histogram::Occupied bins = histogram.occupied();
  double total = 0;
  for (const int64_t count : bins.counts) total += static_cast<double>(count);
  if (total == 0) return std::numeric_limits<double>::quiet_NaN();
  double below = 0;
  for (size_t i = 0; i < bins.counts.size(); ++i) {
    const double count = static_cast<double>(bins.counts[i]);
    if (count > 0 && below + count >= q * total) {
      const double part = (q * total - below) / count;
      return bins.low + histogram.bin_width() * (static_cast<double>(i) + part);
    }
    below += count;
  }
  return bins.high;
}

// Occupied bins, joined in pairs until there are at most `bins`.
Json coarse_histogram_json(const Histogram& histogram, size_t bins) {
  Histogram::Occupied occupied = histogram.occupied();
  double width = histogram.bin_width();
  while (occupied.counts.size() > bins) {
    std::vector<int64_t> joined((occupied.counts.size() + 1) / 2);
    for (size_t i = 0; i < occupied.counts.size(); ++i) joined[i / 2] += occupied.counts[i];
    occupied.counts = std::move(joined);
    width *= 2;
    occupied.high = occupied.low + width * static_cast<double>(occupied.counts.size());
  }
  return {{"low", occupied.low}, {"high", occupied.high}, {"counts", occupied.counts}};
}

Json logits_json(const LogitStatistics& logits) {
  Histogram all = logits.first;
  all.merge(logits.others);
  Json json;
  json["mean"] = finite_or_null(logits.moments.mean);
  json["std"] = finite_or_null(logits.moments.standard_deviation());
  json["excess_kurtosis"] = finite_or_null(logits.kurtosis.mean());
  Json& quantiles = json["quantiles"] = Json::object();
  for (const auto& [name, q] : {std::pair{"0", 0.0},
                                {"0.01", 0.01},
                                {"0.05", 0.05},
                                {"0.25", 0.25},
                                {"0.5", 0.5},
                                {"0.75", 0.75},
                                {"0.95", 0.95},
                                {"0.99", 0.99},
                                {"1", 1.0}}) {
    quantiles[name] = finite_or_null(histogram_quantile(all, q));
  }
  json["first_histogram"] = coarse_histogram_json(logits.first, kLogitBins);
  json["others_histogram"] = coarse_histogram_json(logits.others, kLogitBins);
  return json;
}

double ratio_of(double a, double b) {
  return b > 0 ? a / b : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

double SinkTotals::pushed_down() const {
  const double up = std::max(0.0, sink_logit), down = std::max(0.0, -other_logit);
  return up + down > 0 ? down / (up + down) : std::numeric_limits<double>::quiet_NaN();
}

SinkTotals sink_totals(const AttentionSinks& sinks) {
  SinkTotals totals;
  SinkSums chosen, all;
  const double n = static_cast<double>(sinks.sequences);
  const auto add = [](SinkSums& sums, const SinkSums& s) {
    sums.sink_logit += s.sink_logit;
    sums.other_logit += s.other_logit;
    sums.key_norm += s.key_norm;
    sums.other_key_norm += s.other_key_norm;
    sums.value_norm += s.value_norm;
    sums.other_value_norm += s.other_value_norm;
    sums.residual_norm += s.residual_norm;
    sums.other_residual_norm += s.other_residual_norm;
  };
  // Sum over all heads, and over the sink heads alone.
  for (const auto& layer : sinks.heads) {
    for (const HeadSinks& head : layer) {
      ++totals.heads;
      totals.first_share += head.first.share / n;
      totals.strongest_share += head.strongest.share / n;
      if (head.first.share / n > kSinkShare) ++totals.first_heads;
      add(all, head.strongest);
      if (!(head.strongest.share / n > kSinkShare)) continue;
      ++totals.strongest_heads;
      add(chosen, head.strongest);
    }
  }
  // Means: of the sink heads where there are any, else of all heads.
  const double heads = static_cast<double>(totals.heads);
  totals.first_share /= heads;
  totals.strongest_share /= heads;
  const bool any = totals.strongest_heads > 0;
  const SinkSums& sums = any ? chosen : all;
  const double count = n * (any ? static_cast<double>(totals.strongest_heads) : heads);
  totals.sink_logit = sums.sink_logit / count;
  totals.other_logit = sums.other_logit / count;
  totals.key_ratio = ratio_of(sums.key_norm, sums.other_key_norm);
  totals.value_ratio = ratio_of(sums.value_norm, sums.other_value_norm);
  totals.residual_ratio = ratio_of(sums.residual_norm, sums.other_residual_norm);
  return totals;
}

Json sink_json(const AttentionSinks& sinks, const Tokenizer* tokenizer) {
  if (sinks.sequences == 0) return nullptr;
  const double n = static_cast<double>(sinks.sequences);
  const SinkTotals totals = sink_totals(sinks);
  // Totals over the model.
  Json json;
  json["sequences"] = sinks.sequences;
  json["length"] = sinks.length;
  json["threshold"] = kSinkShare;
  json["heads"] = totals.heads;
  json["first_sink_heads"] = totals.first_heads;
  json["strongest_sink_heads"] = totals.strongest_heads;
  json["mean_first_share"] = finite_or_null(totals.first_share);
  json["mean_strongest_share"] = finite_or_null(totals.strongest_share);
  json["sink_logit"] = finite_or_null(totals.sink_logit);
  json["other_logit"] = finite_or_null(totals.other_logit);
  json["pushed_down"] = finite_or_null(totals.pushed_down());
  json["key_norm_ratio"] = finite_or_null(totals.key_ratio);
  json["value_norm_ratio"] = finite_or_null(totals.value_ratio);
  json["residual_norm_ratio"] = finite_or_null(totals.residual_ratio);
  // One entry per head.
  Json& list = json["per_head"] = Json::array();
  for (size_t layer = 0; layer < sinks.heads.size(); ++layer) {
    for (size_t h = 0; h < sinks.heads[layer].size(); ++h) {
      const HeadSinks& head = sinks.heads[layer][h];
      Json one;
      one["layer"] = layer;
      one["head"] = h;
      one["first"] = side_json(head.first, n);
      one["strongest"] = side_json(head.strongest, n);
      one["strongest_is_first"] = static_cast<double>(head.strongest_is_first) / n;
      one["top_positions"] = top_positions_json(head, n);
      one["top_tokens"] = top_tokens_json(head.strongest_token, tokenizer);
      one["logits"] = logits_json(head.logits);
      list.push_back(std::move(one));
    }
  }
  json["verdict"] = sink_verdict(sinks);
  return json;
}

std::string sink_verdict(const AttentionSinks& sinks) {
  const SinkTotals t = sink_totals(sinks);
  const std::string shares = fmt::format(
      "{} of {} heads give the first token more than {:.0f} % of their attention (mean {:.1f} %), "
      "{} give it to some token",
      t.first_heads, t.heads, 100 * kSinkShare, 100 * t.first_share, t.strongest_heads);
  const double down = t.pushed_down();
  if (t.strongest_heads == 0) {
    return fmt::format(
        "No attention sinks: none of {} heads gives one token more than {:.0f} % of its attention "
        "(to the first token {:.1f} % in the mean).",
        t.heads, 100 * kSinkShare, 100 * t.first_share);
  }
  if (!std::isfinite(down)) return "Attention sinks: " + shares + ".";
  return fmt::format(
      "Attention sinks: {}; there sink logits average {:+.2f} and the others {:+.2f}, so {:.0f} % "
      "of the distance comes from logits below zero; values there have {:.2f} times the others' "
      "norm.",
      shares, t.sink_logit, t.other_logit, 100 * down, t.value_ratio);
}

std::string sink_text(const AttentionSinks& sinks) {
  if (sinks.sequences == 0) return "";
  const double n = static_cast<double>(sinks.sequences);
  std::string text = fmt::format(
      "attention sinks, {} sequences of {} tokens\n"
      "block  sink heads  first token  strongest  sink logit  other logits  value norm\n",
      sinks.sequences, sinks.length);
  for (size_t layer = 0; layer < sinks.heads.size(); ++layer) {
    double first = 0, strongest = 0, sink = 0, other = 0, value = 0, other_value = 0;
    int64_t count = 0;
    for (const HeadSinks& head : sinks.heads[layer]) {
      first += head.first.share;
      strongest += head.strongest.share;
      sink += head.strongest.sink_logit;
      other += head.strongest.other_logit;
      value += head.strongest.value_norm;
      other_value += head.strongest.other_value_norm;
      count += head.first.share / n > kSinkShare ? 1 : 0;
    }
    const double all = n * static_cast<double>(sinks.heads[layer].size());
    text +=
        fmt::format("{:>5} {:>6} of {:<2} {:>10.1f} % {:>8.1f} % {:>11.2f} {:>13.2f} {:>9.2f} x\n",
                    layer + 1, count, sinks.heads[layer].size(), 100 * first / all,
                    100 * strongest / all, sink / all, other / all, ratio_of(value, other_value));
  }
  return text + sink_verdict(sinks) + "\n";
}

}  // namespace osp
