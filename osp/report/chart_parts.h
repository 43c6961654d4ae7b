// Parts that several charts share: axes, names, lists, histograms.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/report/results.h"

namespace osp {

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

// The smallest and largest finite value over several lists; {0, 0} if there is none.
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

// NaN of none.
double mean_of(const std::vector<double>& values);

// At most `count` indices spread evenly over [0, size), both ends among them.
std::vector<size_t> spread_indices(size_t size, size_t count);

// Appends `text` unless the list has it; true if it was appended.
bool add_once(const std::string& text, std::vector<std::string>& list);

// The index of a text in a list, to which it is appended unless the list has it.
size_t index_in(const std::string& text, std::vector<std::string>& list);

// Marks of a run at x (categories or numbers), shown at one choice of the chart; the label is
// escaped for HTML.
Json marks_trace(const std::string& label, const Json& x, const std::vector<double>& y,
                 const std::string& hover, size_t run, size_t choice);

// Adds to a cell that all models share: their one value, or every value that one of them has ("300;
// 1,319"). "–" is none.
void set_shared(std::string& cell, const std::string& value);

// The texts with markup escaped, for plotly's names and categories.
std::vector<std::string> escaped_list(const std::vector<std::string>& texts);

// The histogram with neighbouring bins joined until at most `max_bins` remain.
ReportedHistogram fewer_bins(const ReportedHistogram& histogram, size_t max_bins);

// The sum of two histograms, over bins as wide as the wider of theirs; an empty one adds nothing.
ReportedHistogram joined_histogram(const ReportedHistogram& a, const ReportedHistogram& b);

}  // namespace osp
