// The summary of all runs: the table, summary.json, the computed headline, and numbers as text.
#pragma once

#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/report/html.h"
#include "osp/report/measurement.h"
#include "osp/report/run_data.h"

namespace osp {

// | | tokens | loss | excess kurtosis | largest | measured on | PPL 16-16-16 | PPL 4-4-4 (RTN) |
// damage | with FFN Hadamard | outlier tax |, a row per run: validation loss at the end, outliers
// of the finished model, perplexities of one measurement with its text, tokens and window,
// damage = relative increase of the perplexity at 4 bits, the same with a Hadamard in front of the
// down projection, and the outlier tax in nats with its share (both columns only where a run has
// them). "–" for a missing number, with the reason where 16 and 4 bits were measured, but not
// together. With `join`, a row per recipe: means and standard deviations over its seeds.
HtmlTable summary_table(const std::vector<RunData>& runs, bool join = false);

// The table without the columns that hold nothing but "–".
HtmlTable without_empty_columns(const HtmlTable& table);

// The table as aligned Markdown, for a terminal.
std::string to_markdown(const HtmlTable& table);

// {key: {tokens, loss, excess_kurtosis, largest_activation, outlier_tax: {nats, error, share,
// readers_share}, perplexity: {bits: value}, measured_on: {text, tokens, window}}}, with null for a
// missing number; the perplexities are those of the one measurement in the table.
Json summary_json(const std::vector<RunData>& runs);

// One or two sentences at the top of the page: the outlier-safe run (by its recipe; the last of
// several) beside another one, else which run has the lowest and the highest kurtosis.
std::string headline(const std::vector<RunData>& runs);

std::vector<std::vector<TextPerplexities>> perplexities_of(const std::vector<RunData>& runs);

// A run's perplexity on the text that a comparison is about; NaN where it was not measured there.
double perplexity_on(const RunData& run, const Measurement& at, const std::string& bits);

// True for equal peak learning rates.
bool same_rate(const RunData& a, const RunData& b);

// The median of the positive values; NaN without any.
double median_of(std::vector<double> values);

// A number's text with a minus sign (U+2212), and none in front of a zero.
std::string with_minus(std::string text);

// "–" if not finite; 4 significant digits below 1000, else whole with commas.
std::string format_number(double value);
// "–" if not finite; so many digits after the point below 1000, else whole with commas.
std::string format_fixed(double value, int digits);
// The relative increase from `full` to `quantized`, "+4.5 %"; "–" if either is not finite.
std::string format_damage(double full, double quantized);

}  // namespace osp
