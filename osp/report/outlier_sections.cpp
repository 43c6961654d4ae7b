#include "osp/report/outlier_sections.h"

#include <algorithm>
#include <cmath>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/report/chart_parts.h"
#include "osp/report/html.h"
#include "osp/report/plain_names.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

constexpr size_t kMaxContextBytes = 80;
constexpr size_t kMostOpen = 6;  // models whose sentences are not folded up

std::string index_text(int64_t value) { return value < 0 ? "–" : std::to_string(value); }

std::string place_text(const ReportedActivation& largest) {
  if (largest.layer < 0) return "–";
  const auto layer = static_cast<size_t>(largest.layer);
  if (largest.point.empty() || largest.point == "residual") return layer_name(layer);
  return fmt::format("{}, block {}", shorten(plain_name(largest.point), 60), layer + 1);
}

// The text around an activation on one line: "…before ⟦token⟧ after…".
std::string text_around(const ReportedActivation& largest) {
  std::string text = largest.before + "⟦" + largest.token + "⟧" + largest.after;
  std::replace(text.begin(), text.end(), '\n', ' ');
  return largest.token.empty() && largest.before.empty() ? "–"
                                                         : shorten(text, 3 * kMaxContextBytes);
}

// Also true where their number was not recorded.
bool has_sink(const ReportedSinks& sinks) {
  return !(sinks.strongest_sink_heads == 0 && sinks.first_sink_heads == 0);
}

// Minus signs in place of the hyphens in front of numbers: of " -0.05", not of "4-4-4" or "1e-05".
std::string with_minus_signs(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool begins = i == 0 || text[i - 1] == ' ' || text[i - 1] == '(';
    const bool number = i + 1 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '9';
    out += text[i] == '-' && begins && number ? std::string("−") : std::string(1, text[i]);
  }
  return out;
}

// The sentence without its prefix: "Verdict: the model has …" becomes "The model has …".
std::string without_prefix(std::string sentence) {
  const std::string prefix = "Verdict: ";
  if (!sentence.starts_with(prefix) || sentence.size() == prefix.size()) return sentence;
  sentence.erase(0, prefix.size());
  if (sentence[0] >= 'a' && sentence[0] <= 'z') sentence[0] -= 'a' - 'A';
  return sentence;
}

}  // namespace

std::string largest_section(const std::vector<RunData>& runs) {
  HtmlTable table{{"", "value", "hidden state", "channel", "position", "token"}, {}};
  for (const RunData& run : runs) {
    const ReportedActivation& largest = run.outliers().largest;
    if (!std::isfinite(largest.value)) continue;
    table.rows.push_back({run.label, format_number(largest.value),
                          largest.layer < 0 ? "–" : layer_name(static_cast<size_t>(largest.layer)),
                          index_text(largest.channel), index_text(largest.position),
                          largest.token.empty() ? "–" : "“" + shorten(largest.token, 40) + "”"});
  }
  if (table.rows.empty()) return "";
  return "<h3>Where the largest activations sit</h3>\n" +
         render_table(table, "Where the largest activations sit");
}

std::string activation_section(const std::vector<RunData>& runs) {
  std::string out;
  for (const RunData& run : runs) {
    if (run.largest_activations.empty()) continue;
    HtmlTable table{{"value", "where", "channel", "position", "text"}, {}};
    for (const ReportedActivation& largest : run.largest_activations) {
      table.rows.push_back({format_number(largest.value), place_text(largest),
                            index_text(largest.channel), index_text(largest.position),
                            text_around(largest)});
    }
    out += "<details><summary>Largest activations of " + escape_html(run.label) +
           " with their text</summary>\n<div class=\"text\">" +
           render_table(table, "Largest activations of " + run.label) + "</div></details>\n";
  }
  return out;
}

bool any_sink(const std::vector<RunData>& runs) {
  return std::any_of(runs.begin(), runs.end(), [](const RunData& run) {
    return !run.sinks.first_share.empty() && has_sink(run.sinks);
  });
}

std::string sink_section(const std::vector<RunData>& runs) {
  HtmlTable table{{"", "heads", "sink heads, first token", "sink heads, any token", "sink's logit",
                   "other logits", "key norm", "value norm"},
                  {}};
  double threshold = kNan;
  for (const RunData& run : runs) {
    const ReportedSinks& sinks = run.sinks;
    if (sinks.first_share.empty()) continue;
    threshold = sinks.threshold;
    const auto only_of_sink = [&](double value) {
      return has_sink(sinks) ? format_number(value) : "no sink";
    };
    table.rows.push_back({run.label, format_number(sinks.heads),
                          format_number(sinks.first_sink_heads),
                          format_number(sinks.strongest_sink_heads), only_of_sink(sinks.sink_logit),
                          only_of_sink(sinks.other_logit), only_of_sink(sinks.key_norm_ratio),
                          only_of_sink(sinks.value_norm_ratio)});
  }
  if (table.rows.empty()) return "";
  return "<h3>Attention in numbers</h3>\n" + render_table(table, "Attention in numbers") +
         fmt::format(
             "<p class=\"soft\">A sink head gives more than {} of its attention to one token. "
             "Logits are means at the sink and at the other keys, over the sink heads; norms are "
             "ratios of the sink's to the others'. Models without a sink head have none of "
             "these.</p>\n",
             format_number(threshold));
}

std::string verdict_section(const std::vector<RunData>& runs) {
  std::string out;
  for (const RunData& run : runs) {
    if (run.verdicts.empty()) continue;
    out += "<li><b>" + escape_html(run.label) + "</b><ul class=\"notes\">\n";
    for (const std::string& sentence : run.verdicts) {
      out += "<li>" + escape_html(with_minus_signs(shorten(without_prefix(sentence), 600))) +
             "</li>\n";
    }
    out += "</ul></li>\n";
  }
  if (out.empty()) return "";
  out = "<ul class=\"words\">\n" + out + "</ul>\n";
  if (runs.size() > kMostOpen)
    out = "<details><summary>Of every model</summary>\n" + out + "</details>\n";
  return "<h3>In words</h3>\n" + out;
}

}  // namespace osp
