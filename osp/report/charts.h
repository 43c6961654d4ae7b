// Charts as data: plotly traces and axes, and beside each the same numbers as a table. Colours,
// fonts and line styles are chosen in the page (page.js) from each trace's `meta.run`.
// Plotly reads markup in names and categories, so those are escaped here.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/report/html.h"
#include "osp/report/run_data.h"

namespace osp {

struct Chart {
  std::string id;  // element id: a-z and '-'
  std::string title;
  std::string caption;  // what is drawn, with units
  Json traces = Json::array();
  Json layout = Json::object();
  HtmlTable table = {};
  std::vector<std::string> choices = {};  // names of alternatives; a trace's meta.choice says which
  size_t default_choice = 0;
  bool wide = false;         // takes the page's whole width
  bool over_tokens = false;  // its horizontal axis can be switched to time
  // A chart over many categories is at least this wide for each, and scrolls where that is more
  // than the page has.
  double pixels_per_category = 0;
};

// Curves against tokens (curve_charts.cpp), each at most `max_points` long. A chart that no model
// has numbers for is left out, in all of these.
std::vector<Chart> outlier_curves(const std::vector<RunData>& runs, size_t max_points);
std::vector<Chart> learning_curves(const std::vector<RunData>& runs, size_t max_points);
// Kurtosis by layer, now and over the run, and histograms of activations of at most `max_points`
// bins (model_charts.cpp, heat_map.cpp).
std::vector<Chart> model_charts(const std::vector<RunData>& runs, size_t max_points);
Chart kurtosis_heat_map(const std::vector<RunData>& runs);
// Where attention goes (sink_charts.cpp).
std::vector<Chart> sink_charts(const std::vector<RunData>& runs, size_t max_points);
// Perplexity at each number of bits and by method, noise by layer (quant_charts.cpp).
std::vector<Chart> quantization_charts(const std::vector<RunData>& runs);
// Benchmarks (task_charts.cpp).
std::vector<Chart> task_charts(const std::vector<RunData>& runs);

// An axis that is linear near 0 and logarithmic beyond: positions asinh(value / scale), labelled
// with values. Good for kurtosis, which crosses 0 and spans decades.
struct AsinhAxis {
  double scale = 0.1;
  double place(double value) const;
  std::vector<double> place(const std::vector<double>& values) const;
  // Plotly's tickvals and ticktext for values in [low, high]: 0 and ± the powers of ten times
  // `mantissas`, from `scale` upwards, one beyond each end.
  Json ticks(double low, double high, const std::vector<double>& mantissas = {1}) const;
};

// Plotly's ticks of a logarithmic axis for values in [low, high] with low > 0: powers of ten, finer
// steps below two decades.
Json log_ticks(double low, double high);

// Smallest and largest finite value over several lists; {0, 0} if there is none.
struct Extent {
  double low = 0;
  double high = 0;
  bool found = false;
  void include(double value);
  void include(const std::vector<double>& values);
};

// "embedding", "block 1", …
std::string layer_name(size_t layer);
std::vector<std::string> layer_names(size_t count);

// At most `count` indices spread evenly over [0, size), both ends among them.
std::vector<size_t> spread_indices(size_t size, size_t count);

// Appends `text` unless it is there; whether it did.
bool add_once(const std::string& text, std::vector<std::string>& list);

// As plotly's names and categories: markup escaped.
std::vector<std::string> escaped(const std::vector<std::string>& texts);

// The histogram with neighbouring bins joined until at most `max_bins` are left.
Histogram fewer_bins(const Histogram& histogram, size_t max_bins);

// Both histograms as one, over bins as wide as the wider of theirs; an empty one adds nothing.
Histogram joined(const Histogram& a, const Histogram& b);

}  // namespace osp
