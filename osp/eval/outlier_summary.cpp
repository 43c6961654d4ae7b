#include "osp/eval/outlier_summary.h"

#include <algorithm>
#include <cmath>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/json_number.h"
#include "osp/base/json_text.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

Json numbers(const std::vector<double>& values) {
  Json list = Json::array();
  for (const double value : values) list.push_back(finite_or_null(value));
  return list;
}

// The token's text as a JSON string; half a character shows as U+FFFD.
Json spelled(int64_t token, const Tokenizer& tokenizer) {
  const int32_t id = static_cast<int32_t>(token);
  return tokenizer::replace_invalid_utf8(tokenizer.decode({&id, 1}));
}

Json largest_json(const LargestActivation& largest, const Tokenizer* tokenizer) {
  Json json;
  json["value"] = finite_or_null(largest.value);
  json["layer"] = largest.layer;
  json["position"] = largest.position;
  json["channel"] = largest.channel;
  json["token"] = tokenizer ? spelled(largest.token, *tokenizer) : Json(nullptr);
  json["token_id"] = largest.token;
  json["sequence"] = largest.sequence;
  return json;
}

Json histogram_json(TapPoint point, int64_t layer, const PointStatistics& statistics) {
  const Histogram::Occupied occupied = statistics.histogram.occupied();
  Json json;
  json["point"] = tap_point_name(point);
  json["layer"] = layer;
  json["low"] = occupied.low;
  json["high"] = occupied.high;
  json["counts"] = occupied.counts;
  json["mean"] = finite_or_null(statistics.moments.mean);
  json["std"] = finite_or_null(statistics.moments.standard_deviation());
  return json;
}

}  // namespace

std::string tap_point_name(TapPoint point) {
  switch (point) {
    case TapPoint::embedding:
      return "embedding";
    case TapPoint::attention_input:
      return "attention_input";
    case TapPoint::query:
      return "query";
    case TapPoint::key:
      return "key";
    case TapPoint::value:
      return "value";
    case TapPoint::attention_logits:
      return "attention_logits";
    case TapPoint::attention_output:
      return "attention_output";
    case TapPoint::mlp_input:
      return "mlp_input";
    case TapPoint::mlp_product:
      return "mlp_product";
    case TapPoint::residual:
      return "residual";
    case TapPoint::final_state:
      return "final_state";
    case TapPoint::head_input:
      return "head_input";
  }
  OSP_CHECK(false, "unknown tap point {}", static_cast<int>(point));
}

std::string tap_point_words(TapPoint point) {
  std::string words = tap_point_name(point);
  std::replace(words.begin(), words.end(), '_', ' ');
  return words.starts_with("mlp") ? "MLP" + words.substr(3) : words;
}

std::string state_words(int64_t layer) {
  return layer == 0 ? "behind the embedding" : fmt::format("behind block {}", layer);
}

Json outlier_json(const OutlierReport& report, const Tokenizer* tokenizer) {
  Json json;
  json["tokens"] = report.tokens;
  Json& kurtosis = json["excess_kurtosis"];
  kurtosis["mean"] = finite_or_null(report.mean);
  kurtosis["clipped_mean"] = finite_or_null(report.clipped_mean);
  kurtosis["per_layer"] = numbers(report.per_layer);
  kurtosis["clipped_per_layer"] = numbers(report.clipped_per_layer);
  json["largest_activation"] = largest_json(report.largest, tokenizer);
  json["largest_attention_logit"] = finite_or_null(report.largest_attention_logit);
  Json& histograms = json["histograms"] = Json::array();
  for (const auto& [key, statistics] : report.points) {
    histograms.push_back(histogram_json(key.first, key.second, statistics));
  }
  return json;
}

std::string outlier_verdict(const OutlierReport& report) {
  const std::string place = fmt::format(
      "the largest activation is {:.4g} ({}, position {}, channel {})", report.largest.value,
      state_words(report.largest.layer), report.largest.position, report.largest.channel);
  if (!std::isfinite(report.mean) || !std::isfinite(report.largest.value)) {
    return fmt::format(
        "Verdict: cannot be judged: activations are not finite or have no spread; {}.", place);
  }
  if (report.mean >= kOutlierKurtosis) {
    return fmt::format(
        "Verdict: the model has outliers: its mean excess kurtosis is {:.2f}, {:.1f} or more means "
        "outliers (a Gaussian has 0); {}.",
        report.mean, kOutlierKurtosis, place);
  }
  return fmt::format(
      "Verdict: the model has no outliers: its mean excess kurtosis is {:.2f}, below {:.1f} (a "
      "Gaussian has 0); {}.",
      report.mean, kOutlierKurtosis, place);
}

std::string outlier_text(const OutlierReport& report, const Tokenizer* tokenizer) {
  std::string text = fmt::format("{} tokens\n\n", format_count(report.tokens));
  text += "state        excess kurtosis   clipped (reference's way)\n";
  for (size_t i = 0; i < report.per_layer.size(); ++i) {
    const std::string state = i == 0 ? "embedding" : fmt::format("block {}", i);
    const std::string clipped = i < report.clipped_per_layer.size()
                                    ? fmt::format("{:.3f}", report.clipped_per_layer[i])
                                    : "";
    text += fmt::format("{:<10} {:>17.3f} {:>27}\n", state, report.per_layer[i], clipped);
  }
  text += fmt::format("{:<10} {:>17.3f} {:>27.3f}\n\n", "mean", report.mean, report.clipped_mean);
  const LargestActivation& largest = report.largest;
  text += fmt::format("largest activation       {:.4g}: {}, position {}, channel {}, token {}{}\n",
                      largest.value, state_words(largest.layer), largest.position, largest.channel,
                      largest.token,
                      tokenizer ? " " + json_text(spelled(largest.token, *tokenizer)) : "");
  if (report.attention_layer >= 0) {
    text += fmt::format("largest attention logit  {:.4g}: block {}, head {}\n",
                        report.largest_attention_logit, report.attention_layer + 1,
                        report.attention_head + 1);
  }
  return text + "\n" + outlier_verdict(report) + "\n";
}

}  // namespace osp
