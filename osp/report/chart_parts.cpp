#include "osp/report/chart_parts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "osp/base/error.h"
#include "osp/report/html.h"
#include "osp/report/summary.h"

namespace osp {

namespace {

constexpr size_t kFewestTicks = 3;

size_t ticks_between(const std::vector<double>& ticks, double low, double high) {
  return static_cast<size_t>(std::count_if(
      ticks.begin(), ticks.end(), [&](double tick) { return tick >= low && tick <= high; }));
}

// Round values at equal distances in and around [low, high], for a range between the ticks of an
// axis that is not linear.
std::vector<double> even_ticks(double low, double high) {
  const double room = std::max({high - low, 1e-6 * std::abs(high), 1e-12});
  const double power = std::pow(10.0, std::floor(std::log10(room / 4)));
  double step = power;
  for (const double factor : {2.0, 5.0, 10.0}) {
    if (room / step > 5) step = power * factor;
  }
  std::vector<double> ticks;
  const double first = std::floor(low / step), last = std::ceil(high / step);
  for (double tick = first; tick <= last; ++tick) ticks.push_back(round_significant(tick * step));
  return ticks;
}

}  // namespace

double AsinhAxis::place(double value) const { return std::asinh(value / scale); }

std::vector<double> AsinhAxis::place(const std::vector<double>& values) const {
  std::vector<double> places;
  for (const double value : values) places.push_back(place(value));
  return places;
}

Json AsinhAxis::ticks(double low, double high, const std::vector<double>& mantissas) const {
  std::vector<double> positive;
  const double reach = std::max({std::abs(low), std::abs(high), scale});
  for (double decade = scale; positive.empty() || positive.back() < reach; decade *= 10) {
    for (const double mantissa : mantissas) {
      if (positive.empty() || positive.back() < reach) positive.push_back(decade * mantissa);
    }
  }
  std::vector<double> values = {0};
  for (const double tick : positive) {
    const bool first = tick == positive.front();
    if (first || tick / 10 < high) values.push_back(tick);
    if (tick / 10 < -low || (first && low < 0)) values.insert(values.begin(), -tick);
  }
  if (ticks_between(values, low, high) < kFewestTicks - 1) values = even_ticks(low, high);
  Json places = Json::array(), names = Json::array();
  for (const double value : values) {
    places.push_back(round_significant(place(value)));
    names.push_back(format_number(value));
  }
  return {{"tickmode", "array"}, {"tickvals", places}, {"ticktext", names}, {"zeroline", true}};
}

namespace {

// 10⁻⁷
std::string power_of_ten(int exponent) {
  constexpr std::array<const char*, 10> kDigits = {"⁰", "¹", "²", "³", "⁴",
                                                   "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = exponent < 0 ? "10⁻" : "10";
  for (const char digit : std::to_string(std::abs(exponent))) {
    text += kDigits.at(static_cast<size_t>(digit - '0'));
  }
  return text;
}

// The steps within a decade that give an axis of so many decades four to ten ticks.
std::vector<double> log_steps(double decades) {
  if (decades >= 2) return {1};
  if (decades >= 0.7) return {1, 2, 5};
  return {1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9};
}

}  // namespace

Json log_ticks(double low, double high) {
  OSP_CHECK(low > 0 && high >= low, "a logarithmic axis from {} to {}", low, high);
  constexpr double kMostTicks = 8;
  const double decades = std::log10(high / low);
  const int every = std::max(1, static_cast<int>(std::ceil(decades / kMostTicks)));
  const bool as_powers = low < 1e-3 || high >= 1e6;
  Json places = Json::array(), names = Json::array();
  const int last = static_cast<int>(std::ceil(std::log10(high)));
  std::vector<double> values;
  for (int exponent = static_cast<int>(std::floor(std::log10(low))); exponent <= last; ++exponent) {
    if (exponent % every != 0) continue;
    for (const double step : log_steps(decades)) {
      const double value = step * std::pow(10.0, exponent);
      values.push_back(value);
      places.push_back(round_significant(value));
      names.push_back(as_powers && step == 1 ? power_of_ten(exponent) : format_number(value));
    }
  }
  if (ticks_between(values, low, high) < kFewestTicks - 1) {
    places = names = Json::array();
    for (const double value : even_ticks(low, high)) {
      if (!(value > 0)) continue;
      places.push_back(value);
      names.push_back(format_number(value));
    }
  }
  return {{"type", "log"}, {"tickmode", "array"}, {"tickvals", places}, {"ticktext", names}};
}

void Extent::include(double value) {
  if (!std::isfinite(value)) return;
  low = found ? std::min(low, value) : value;
  high = found ? std::max(high, value) : value;
  found = true;
}

void Extent::include(const std::vector<double>& values) {
  for (const double value : values) include(value);
}

std::string layer_name(size_t layer) {
  return layer == 0 ? "embedding" : fmt::format("block {}", layer);
}

std::vector<std::string> layer_names(size_t count) {
  std::vector<std::string> names;
  for (size_t layer = 0; layer < count; ++layer) names.push_back(layer_name(layer));
  return names;
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

std::vector<size_t> spread_indices(size_t size, size_t count) {
  std::vector<size_t> indices;
  if (size <= count) {
    for (size_t i = 0; i < size; ++i) indices.push_back(i);
    return indices;
  }
  OSP_CHECK(count >= 2, "{} of {} points", count, size);
  for (size_t i = 0; i < count; ++i) indices.push_back(i * (size - 1) / (count - 1));
  return indices;
}

bool add_once(const std::string& text, std::vector<std::string>& list) {
  if (std::find(list.begin(), list.end(), text) != list.end()) return false;
  list.push_back(text);
  return true;
}

size_t index_in(const std::string& text, std::vector<std::string>& list) {
  add_once(text, list);
  return static_cast<size_t>(std::find(list.begin(), list.end(), text) - list.begin());
}

Json marks_trace(const std::string& label, const Json& x, const std::vector<double>& y,
                 const std::string& hover, size_t run, size_t choice) {
  return {{"type", "scatter"},
          {"mode", "markers"},
          {"name", escape_html(label)},
          {"x", x},
          {"y", to_json_array(y)},
          {"hovertemplate", hover},
          {"meta", {{"run", run}, {"role", "marks"}, {"choice", choice}}}};
}

void set_shared(std::string& cell, const std::string& value) {
  if (cell == "–") {
    cell = value;
  } else if (("; " + cell + "; ").find("; " + value + "; ") == std::string::npos) {
    cell += "; " + value;
  }
}

std::vector<std::string> escaped_list(const std::vector<std::string>& texts) {
  std::vector<std::string> out;
  for (const std::string& text : texts) out.push_back(escape_html(text));
  return out;
}

ReportedHistogram fewer_bins(const ReportedHistogram& histogram, size_t max_bins) {
  const size_t size = histogram.counts.size();
  if (size <= max_bins || max_bins == 0) return histogram;
  const size_t join = (size + max_bins - 1) / max_bins;
  ReportedHistogram out = histogram;
  out.counts.assign((size + join - 1) / join, 0.0);
  for (size_t i = 0; i < size; ++i) {
    if (std::isfinite(histogram.counts[i])) out.counts[i / join] += histogram.counts[i];
  }
  // The last bin may reach beyond the range, so that all are equally wide.
  const double bin = (histogram.high - histogram.low) / static_cast<double>(size);
  out.high = histogram.low + bin * static_cast<double>(join * out.counts.size());
  return out;
}

namespace {

double bin_width(const ReportedHistogram& histogram) {
  return (histogram.high - histogram.low) / static_cast<double>(histogram.counts.size());
}

// Adds each bin's count where its centre lies.
void pour(const ReportedHistogram& from, double width, ReportedHistogram& into) {
  for (size_t i = 0; i < from.counts.size(); ++i) {
    const double centre = from.low + (static_cast<double>(i) + 0.5) * bin_width(from);
    const double place =
        std::clamp((centre - into.low) / width, 0.0, static_cast<double>(into.counts.size() - 1));
    if (std::isfinite(from.counts[i])) into.counts[static_cast<size_t>(place)] += from.counts[i];
  }
}

}  // namespace

ReportedHistogram joined_histogram(const ReportedHistogram& a, const ReportedHistogram& b) {
  const auto usable = [](const ReportedHistogram& h) {
    return !h.counts.empty() && bin_width(h) > 0;
  };
  if (!usable(a)) return b;
  if (!usable(b)) return a;
  constexpr double kMostBins = 4096;
  const double low = std::min(a.low, b.low), high = std::max(a.high, b.high);
  const double width = std::max({bin_width(a), bin_width(b), (high - low) / kMostBins});
  const double bins = std::max(1.0, std::ceil((high - low) / width - 1e-9));
  ReportedHistogram out{.point = a.point,
                        .layer = a.layer,
                        .low = low,
                        .high = low + bins * width,
                        .counts = std::vector<double>(static_cast<size_t>(bins), 0.0)};
  pour(a, width, out);
  pour(b, width, out);
  return out;
}

}  // namespace osp
