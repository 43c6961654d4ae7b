#include "osp/eval/point_summary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/json_number.h"
#include "osp/eval/outlier_summary.h"
#include "osp/eval/weight_summary.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

constexpr size_t kLargestListed = 20, kTopChannels = 5, kHurtListed = 5;
constexpr int64_t kTextAround = 8;  // tokens on each side

Json top_channels_json(const std::vector<double>& rms) {
  std::vector<size_t> order(rms.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const size_t count = std::min(kTopChannels, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(count), order.end(),
                    [&](size_t a, size_t b) { return rms[a] != rms[b] ? rms[a] > rms[b] : a < b; });
  order.resize(count);
  Json list = Json::array();
  for (const size_t c : order) list.push_back({{"channel", c}, {"rms", finite_or_null(rms[c])}});
  return list;
}

Json text_of(const SpelledData& data, int64_t begin, int64_t end) {
  if (data.tokenizer == nullptr) return nullptr;
  std::vector<int32_t> ids;
  for (int64_t i = begin; i < end; ++i) ids.push_back(int32_t(data.tokens[size_t(i)]));
  return tokenizer::replace_invalid_utf8(data.tokenizer->decode(ids));
}

Json place_json(const std::string& point, int64_t layer, const PlacedActivation& one,
                const SpelledData& data) {
  const int64_t begin = one.sequence * data.length, place = begin + one.position;
  const int64_t first = std::max(begin, place - kTextAround);
  const int64_t last = std::min(begin + data.length, place + 1 + kTextAround);
  return {{"point", point},
          {"layer", layer},
          {"value", finite_or_null(one.value)},
          {"sequence", one.sequence},
          {"position", one.position},
          {"channel", one.channel},
          {"token_id", data.tokens[size_t(place)]},
          {"token", text_of(data, place, place + 1)},
          {"before", text_of(data, first, place)},
          {"after", text_of(data, place + 1, last)}};
}

Json largest_list_json(const OutlierReport& report, const SpelledData& data) {
  struct Candidate {
    std::pair<TapPoint, int64_t> key;
    PlacedActivation one;
  };
  std::vector<Candidate> all;
  for (const auto& [key, statistics] : report.points) {
    for (const PlacedActivation& one : statistics.profile.largest()) all.push_back({key, one});
  }
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return std::abs(a.one.value) > std::abs(b.one.value);
  });
  all.resize(std::min(all.size(), kLargestListed));
  Json list = Json::array();
  for (const Candidate& c : all) {
    list.push_back(place_json(tap_point_name(c.key.first), c.key.second, c.one, data));
  }
  return list;
}

using NoisePlace = std::pair<std::pair<TapPoint, int64_t>, double>;

// Places from the noisiest to the least noisy.
std::vector<NoisePlace> by_sqnr(const NoiseByPoint& noise) {
  std::vector<NoisePlace> places;
  for (const auto& [key, one] : noise) {
    if (std::isfinite(one.sqnr_per_token_db())) places.push_back({key, one.sqnr_per_token_db()});
  }
  std::stable_sort(places.begin(), places.end(),
                   [](const auto& a, const auto& b) { return a.second < b.second; });
  return places;
}

double mean_or_nan(double sum, double count) {
  return count > 0 ? sum / count : std::numeric_limits<double>::quiet_NaN();
}

// Sums over the layers of one tap point.
struct PointRow {
  double kurtosis = 0, spread = 0, share = 0, layers = 0, sqnr = 0, noisy = 0;
};

}  // namespace

Json point_json(const OutlierReport& report, const NoiseByPoint& noise, const SpelledData& data) {
  Json json;
  Json& points = json["points"] = Json::array();
  // One entry per tap point and layer.
  for (const auto& [key, statistics] : report.points) {
    const PointProfile& profile = statistics.profile;
    const std::vector<double> rms = profile.channel_rms();
    Json one;
    one["point"] = tap_point_name(key.first);
    one["layer"] = key.second;
    Json& kurtosis = one["excess_kurtosis"];
    kurtosis["context"] = finite_or_null(profile.kurtosis().mean());
    kurtosis["context_clipped"] = finite_or_null(profile.clipped().mean());
    const auto single = report.single_token_points.find(key);
    const bool has_single = single != report.single_token_points.end();
    kurtosis["single"] = has_single ? finite_or_null(single->second.plain.mean()) : Json(nullptr);
    kurtosis["single_clipped"] =
        has_single ? finite_or_null(single->second.clipped.mean()) : Json(nullptr);
    one["channel_spread"] = finite_or_null(largest_over_median(rms));
    one["top_channels"] = top_channels_json(rms);
    one["step_share"] = finite_or_null(profile.step_share());
    const auto found = noise.find(key);
    const bool quantized = found != noise.end();
    const QuantizationNoise none = {};
    const QuantizationNoise& n = quantized ? found->second : none;
    one["sqnr_db"] = finite_or_null(n.sqnr_db());
    one["sqnr_per_token_db"] = finite_or_null(n.sqnr_per_token_db());
    one["predicted_sqnr_db"] = finite_or_null(n.predicted_sqnr_db());
    points.push_back(std::move(one));
  }
  json["largest_activations"] = largest_list_json(report, data);
  // The places with the lowest SQNR.
  Json& hurts = json["hurts_most"] = Json::array();
  for (const auto& [key, sqnr] : by_sqnr(noise)) {
    if (hurts.size() == kHurtListed) break;
    hurts.push_back(
        {{"point", tap_point_name(key.first)}, {"layer", key.second}, {"sqnr_per_token_db", sqnr}});
  }
  return json;
}

std::string point_verdict(const NoiseByPoint& noise) {
  const std::vector<NoisePlace> places = by_sqnr(noise);
  if (places.empty()) return "At 4 bits: nothing was measured.";
  const auto hurt = std::count_if(places.begin(), places.end(),
                                  [](const auto& p) { return p.second < kHurtSqnrDb; });
  const auto& [key, worst] = places.front();
  return fmt::format(
      "At 4 bits: {} of {} quantized tensors have an SQNR per token below {:.0f} dB; the worst is "
      "the {} of block {} with {:.1f} dB, the median {:.1f} dB.",
      hurt, places.size(), kHurtSqnrDb, tap_point_words(key.first), key.second + 1, worst,
      places[places.size() / 2].second);
}

std::string point_text(const OutlierReport& report, const NoiseByPoint& noise) {
  // Sum over the layers of each tap point.
  std::map<TapPoint, PointRow> rows;
  for (const auto& [key, statistics] : report.points) {
    PointRow& row = rows[key.first];
    row.kurtosis += statistics.profile.kurtosis().mean();
    row.spread += largest_over_median(statistics.profile.channel_rms());
    row.share += statistics.profile.step_share();
    row.layers += 1;
    const auto found = noise.find(key);
    if (found == noise.end()) continue;
    row.sqnr += found->second.sqnr_per_token_db();
    row.noisy += 1;
  }
  // Print their means.
  std::string text =
      "mean over layers   kurtosis  channel spread  step share  SQNR per token at 4 bits\n";
  for (const auto& [point, row] : rows) {
    const double sqnr = mean_or_nan(row.sqnr, row.noisy);
    text += fmt::format("{:<17} {:>9.2f} {:>15.2f} {:>9.1f} % {:>25}\n", tap_point_name(point),
                        row.kurtosis / row.layers, row.spread / row.layers,
                        100 * row.share / row.layers,
                        std::isfinite(sqnr) ? fmt::format("{:.1f} dB", sqnr) : "–");
  }
  return text + point_verdict(noise) + "\n";
}

}  // namespace osp
