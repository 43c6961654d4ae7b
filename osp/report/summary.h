// The summary of all runs: the table, summary.json, and computed sentences that say whether the
// outlier-safe run has no outliers and loses least at 4 bits.
#pragma once

#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/report/html.h"
#include "osp/report/measurement.h"
#include "osp/report/run_data.h"

namespace osp {

// | | tokens | loss | excess kurtosis | largest | measured on | PPL 16-16-16 | PPL 4-4-4 (RTN) |
// damage | with FFN Hadamard | outlier tax |, a row per run: validation loss at the end, outliers of
// the finished model, perplexities of one measurement with its text, tokens and window, damage =
// relative increase of the perplexity at 4 bits, the same with a Hadamard in front of the down
// projection, and the outlier tax in nats with its share (both columns only where a run has them).
// "–" for a missing number, with the reason where 16 and 4 bits were measured, but not together.
HtmlTable summary_table(const std::vector<RunData>& runs);

// The table without the columns that hold nothing but "–".
HtmlTable without_empty_columns(const HtmlTable& table);

// The table as aligned Markdown, for a terminal.
std::string to_markdown(const HtmlTable& table);

// {key: {tokens, loss, excess_kurtosis, largest_activation, outlier_tax: {nats, error, share,
// readers_share}, perplexity: {bits: value}, measured_on: {text, tokens, window}}}, with null for a
// missing number; the perplexities are those of the one measurement in the table.
Json summary_json(const std::vector<RunData>& runs);

// A claim of the method, and whether these runs show it.
struct Claim {
  bool holds;
  std::string text;
};

// The text at the top of the page.
struct Verdict {
  std::string headline;  // one or two sentences
  std::vector<Claim> claims;
};

// Compares the runs whose name begins with "osp" (the last of them) with the others: where it was
// measured, an outlier tax of at least 15 % for them and below 5 % for OSP; excess
// kurtosis at least 50 times max(|OSP's|, 0.05) for a run at the same peak learning rate and 5
// times for another, OSP's below 0.5 in absolute value, OSP's perplexity at 4 bits the lowest.
// Without such a run, or without others, only says which run has the lowest and the highest
// kurtosis.
Verdict verdict(const std::vector<RunData>& runs);

// "–" if not finite; 4 significant digits below 1000, else whole with commas.
std::string format_number(double value);
// The relative increase from `full` to `quantized`, "+4.5 %"; "–" if either is not finite.
std::string format_damage(double full, double quantized);

}  // namespace osp
