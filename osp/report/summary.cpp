#include "osp/report/summary.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/json_number.h"
#include "osp/report/recipe_kind.h"
#include "osp/report/seed_groups.h"

namespace osp {
namespace {

std::string format_two(double value) { return format_fixed(value, 2); }

// A kurtosis below this size is noise; ratios count OSP's as at least this.
constexpr double kKurtosisFloor = 0.05;
constexpr double kKurtosisLimit = 0.5;

Json measurement_json(const Measurement& at) {
  if (at.phrase() == "–") return nullptr;
  return {{"text", at.text.empty() ? Json() : Json(at.text)},
          {"tokens", at.tokens > 0 ? Json(at.tokens) : Json()},
          {"window", at.window > 0 ? Json(at.window) : Json()}};
}

// Display width of UTF-8 text: code points, which is right for Latin text and dashes.
size_t width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

double size_or_infinity(double value) {
  return std::isfinite(value) ? std::abs(value) : std::numeric_limits<double>::infinity();
}

double ratio_to(const RunData& other, const RunData& osp) {
  return other.outliers().kurtosis / std::max(std::abs(osp.outliers().kurtosis), kKurtosisFloor);
}

std::string rate_text(const RunData& run) {
  return fmt::format("peak learning rate {}", format_number(run.peak_learning_rate()));
}

// "0.0050 (31 %)", nats and share.
std::string tax_cell(const ReportedCost& cost) {
  if (!std::isfinite(cost.tax)) return "–";
  return fmt::format("{} ({})", with_minus(fmt::format("{:.4f}", cost.tax)),
                     with_minus(fmt::format("{:.0f} %", 100 * cost.share)));
}

// The cost of the outliers of both; "" where it was not measured, or not on the same text.
std::string tax_sentence(const RunData& other, const RunData& osp) {
  if (!std::isfinite(other.cost.share) || !std::isfinite(osp.cost.share)) return "";
  if (other.cost.bits != osp.cost.bits || other.cost.at.key() != osp.cost.at.key()) return "";
  const auto percent = [](double share) {
    return with_minus(fmt::format("{:.1f} %", 100 * share));
  };
  std::string readers = ".";
  if (std::isfinite(other.cost.readers_share) && std::isfinite(osp.cost.readers_share)) {
    readers = fmt::format(
        "; of what rounding the inputs of the layers that read the residual stream costs, {} and "
        "{}.",
        percent(other.cost.readers_share), percent(osp.cost.readers_share));
  }
  return fmt::format(
      "Rounded to {}, “{}” pays {} nats a token for its outliers, {} of its loss of precision, "
      "“{}” {} ({}; {}): so much a rotation gives back that changes nothing but the basis{} ",
      other.cost.bits, other.label, format_fixed(other.cost.tax, 4), percent(other.cost.share),
      osp.label, format_fixed(osp.cost.tax, 4), percent(osp.cost.share), osp.cost.at.phrase(),
      readers);
}

std::string outlier_sentence(const RunData& other, const RunData& osp) {
  const double ratio = ratio_to(other, osp);
  const std::string rate =
      same_rate(other, osp)
          ? fmt::format("At the same {}", rate_text(osp))
          : fmt::format("At {} for “{}” and {} for “{}”", rate_text(other), other.label,
                        format_number(osp.peak_learning_rate()), osp.label);
  if (!std::isfinite(ratio)) {
    return fmt::format(
        "“{}” and “{}” cannot be compared: an excess kurtosis is missing or not finite.",
        other.label, osp.label);
  }
  std::string meaning = "these runs do not show that the outlier-safe way removes outliers.";
  if (ratio >= 2 && std::abs(osp.outliers().kurtosis) < kKurtosisLimit) {
    meaning = "the former grows activation outliers, the latter has none.";
  } else if (ratio >= 2) {
    meaning = "the latter has fewer outliers, but not none.";
  }
  return fmt::format("{}, excess kurtosis is {} for “{}” and {} for “{}”: {}", rate,
                     format_two(other.outliers().kurtosis), other.label,
                     format_two(osp.outliers().kurtosis), osp.label, meaning);
}

std::string four_bit_sentence(const std::vector<const RunData*>& others, const RunData& osp,
                              const Measurement& at) {
  const RunData* best = nullptr;
  double theirs = std::nan("");
  for (const RunData* other : others) {
    const double value = perplexity_on(*other, at, kFourBits);
    if (!std::isfinite(value) || (best && value >= theirs)) continue;
    best = other;
    theirs = value;
  }
  const double own = perplexity_on(osp, at, kFourBits);
  if (!best || !std::isfinite(own)) {
    return "Not every run has been evaluated at 4 bits on the same text.";
  }
  const double before = perplexity_on(osp, at, kFullBits);
  const double before_theirs = perplexity_on(*best, at, kFullBits);
  return fmt::format(
      "At 4 bits “{}” has perplexity {}, {} the {} of “{}” ({}); rounding to 4 bits changed them "
      "by {} and {}{}",
      osp.label, format_fixed(own, 2), own < theirs ? "better than" : "not better than",
      format_fixed(theirs, 2), best->label, at.phrase(), format_damage(before, own),
      format_damage(before_theirs, theirs),
      own / before > theirs / before_theirs
          ? ", so the damage itself is not smaller: the gain is in the training."
          : ".");
}

std::string plain_headline(const std::vector<RunData>& runs) {
  const auto known = [](const RunData& run) { return std::isfinite(run.outliers().kurtosis); };
  if (std::none_of(runs.begin(), runs.end(), known)) {
    return fmt::format("Measurements of {} model{}.", runs.size(), runs.size() == 1 ? "" : "s");
  }
  if (runs.size() == 1 && !runs[0].trained_here() && runs[0].validation_loss.empty()) {
    return fmt::format("“{}”: excess kurtosis {}.", runs[0].label,
                       format_two(runs[0].outliers().kurtosis));
  }
  if (runs.size() == 1) {
    return fmt::format("“{}”: excess kurtosis {}, validation loss {} after {} tokens.",
                       runs[0].label, format_two(runs[0].outliers().kurtosis),
                       format_fixed(runs[0].final_validation_loss(), 3),
                       format_count(std::llround(runs[0].tokens)));
  }
  const auto [low, high] =
      std::minmax_element(runs.begin(), runs.end(), [](const RunData& a, const RunData& b) {
        return size_or_infinity(a.outliers().kurtosis) < size_or_infinity(b.outliers().kurtosis);
      });
  return fmt::format(
      "Of {} runs, “{}” has the smallest excess kurtosis ({}) and “{}” the largest ({}).",
      runs.size(), low->label, format_two(low->outliers().kurtosis), high->label,
      format_two(high->outliers().kurtosis));
}

}  // namespace

std::vector<std::vector<TextPerplexities>> perplexities_of(const std::vector<RunData>& runs) {
  std::vector<std::vector<TextPerplexities>> all;
  for (const RunData& run : runs) all.push_back(run.perplexities());
  return all;
}

double perplexity_on(const RunData& run, const Measurement& at, const std::string& bits) {
  for (const TextPerplexities& measured : run.perplexities()) {
    if (measured.at.key() == at.key()) return measured.of(bits);
  }
  return std::nan("");
}

double median_of(std::vector<double> values) {
  std::erase_if(values, [](double v) { return !(v > 0); });
  if (values.empty()) return std::nan("");
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

bool same_rate(const RunData& a, const RunData& b) {
  const double x = a.peak_learning_rate(), y = b.peak_learning_rate();
  // Both come from the same schedule code; one part in a million absorbs nothing but its rounding.
  return std::abs(x - y) <= 1e-6 * std::max(std::abs(x), std::abs(y));
}

std::string with_minus(std::string text) {
  const std::string minus = "−";
  for (size_t at = text.find('-'); at != std::string::npos; at = text.find('-', at)) {
    text.replace(at, 1, minus);
  }
  // A number that rounds to zero has no sign.
  const bool zero = text.find_first_of("123456789") == std::string::npos;
  return zero && text.starts_with(minus) ? text.substr(minus.size()) : text;
}

std::string format_number(double value) {
  if (!std::isfinite(value)) return "–";
  if (std::abs(value) >= 999.95) return with_minus(format_count(std::llround(value)));
  return with_minus(fmt::format("{:.4g}", value));
}

std::string format_fixed(double value, int digits) {
  if (!std::isfinite(value)) return "–";
  if (std::abs(value) >= 1000) return with_minus(format_count(std::llround(value)));
  return with_minus(fmt::format("{:.{}f}", value, digits));
}

std::string format_damage(double full, double quantized) {
  if (!std::isfinite(full) || !std::isfinite(quantized) || full == 0) return "–";
  return with_minus(fmt::format("{:+.1f} %", 100 * (quantized / full - 1)));
}

namespace {

// The numbers of a run in the order of the table's columns.
struct SummaryRow {
  double tokens, loss, kurtosis, largest, full, four, damage, hadamard;
  std::string measured_on, gap, tax;
};

SummaryRow summary_row(const RunData& run, const Measurement& common) {
  const Outliers& outliers = run.outliers();
  const ShownPerplexity shown = shown_perplexity(run.perplexities(), common);
  return {.tokens = run.tokens > 0 ? run.tokens : kNan,
          .loss = run.final_validation_loss(),
          .kurtosis = outliers.kurtosis,
          .largest = outliers.largest.value,
          .full = shown.full,
          .four = shown.four,
          .damage = shown.four / shown.full - 1,
          .hadamard = std::expm1(run.cost.own_added_nats),
          .measured_on = shown.at.phrase(),
          .gap = shown.gap,
          .tax = tax_cell(run.cost)};
}

// "8.50 ± 0.31", the mean and the standard deviation over seeds; "–" if one of them lacks it.
std::string seeds_cell(const std::vector<SummaryRow>& rows, double SummaryRow::*number,
                       const std::function<std::string(double)>& text) {
  double mean = 0, squares = 0;
  const auto count = static_cast<double>(rows.size());
  for (const SummaryRow& row : rows) mean += row.*number / count;
  for (const SummaryRow& row : rows) squares += std::pow(row.*number - mean, 2);
  if (rows.size() == 1 || !std::isfinite(mean)) return text(mean);
  if (squares == 0) return text(mean);
  std::string deviation = text(std::sqrt(squares / (count - 1)));
  if (deviation.starts_with('+')) deviation.erase(0, 1);
  return text(mean) + " ± " + deviation;
}

// The one text of all rows, else why there is none.
std::string same_text(const std::vector<SummaryRow>& rows, std::string SummaryRow::*text,
                      const std::string& otherwise) {
  for (const SummaryRow& row : rows) {
    if (row.*text != rows.front().*text) return otherwise;
  }
  return rows.front().*text;
}

std::vector<std::string> summary_cells(const std::string& label,
                                       const std::vector<SummaryRow>& rows, bool taxed,
                                       const ReportedCost& cost) {
  const auto fixed = [](int digits) {
    return [digits](double value) { return format_fixed(value, digits); };
  };
  const auto damage = [](double value) { return format_damage(1, 1 + value); };
  const std::string on = same_text(rows, &SummaryRow::measured_on, "seeds on other texts");
  const std::string gap = same_text(rows, &SummaryRow::gap, "not of every seed");
  const bool together = on != "seeds on other texts";
  std::vector<std::string> cells = {
      label,
      seeds_cell(rows, &SummaryRow::tokens,
                 [](double v) { return std::isfinite(v) ? format_count(std::llround(v)) : "–"; }),
      seeds_cell(rows, &SummaryRow::loss, fixed(3)),
      seeds_cell(rows, &SummaryRow::kurtosis, fixed(2)),
      seeds_cell(rows, &SummaryRow::largest, fixed(1)),
      on,
      together ? seeds_cell(rows, &SummaryRow::full, fixed(2)) : "–",
      together ? seeds_cell(rows, &SummaryRow::four, fixed(2)) : "–",
      gap.empty() ? seeds_cell(rows, &SummaryRow::damage, damage) : "– (" + gap + ")"};
  if (!taxed) return cells;
  // Of seeds that were measured alike; otherwise the joined cost has no numbers.
  cells.push_back(
      std::isfinite(cost.own_added_nats) ? seeds_cell(rows, &SummaryRow::hadamard, damage) : "–");
  cells.push_back(rows.size() == 1 ? rows.front().tax : tax_cell(cost));
  return cells;
}

}  // namespace

HtmlTable summary_table(const std::vector<RunData>& runs, bool join) {
  HtmlTable table{{"", "tokens", "loss", "excess kurtosis", "largest", "measured on",
                   "PPL 16-16-16", "PPL 4-4-4 (RTN)", "damage"},
                  {}};
  const bool taxed = std::any_of(runs.begin(), runs.end(),
                                 [](const RunData& run) { return std::isfinite(run.cost.tax); });
  if (taxed) table.header.insert(table.header.end(), {"with FFN Hadamard", "outlier tax"});
  const Measurement common = common_measurement(perplexities_of(runs));
  if (!join) {
    for (const RunData& run : runs) {
      table.rows.push_back(summary_cells(run.label, {summary_row(run, common)}, taxed, run.cost));
    }
    return table;
  }
  // A row per recipe, with its name where a label does not say it.
  const std::vector<RunData> models = join_seeds(runs);
  const std::vector<std::vector<size_t>> groups = seed_groups(runs);
  for (size_t g = 0; g < groups.size(); ++g) {
    std::vector<SummaryRow> rows;
    for (const size_t r : groups[g]) rows.push_back(summary_row(runs[r], common));
    table.rows.push_back(summary_cells(models[g].label, rows, taxed, models[g].cost));
    const std::string kind = kind_name(recipe_kind(models[g].recipe));
    table.rows.back().insert(table.rows.back().begin() + 1, kind.empty() ? "–" : kind);
  }
  table.header.insert(table.header.begin() + 1, "recipe");
  return table;
}

HtmlTable without_empty_columns(const HtmlTable& table) {
  HtmlTable out;
  out.rows.resize(table.rows.size());
  for (size_t column = 0; column < table.header.size(); ++column) {
    const bool empty =
        column > 0 && std::all_of(table.rows.begin(), table.rows.end(),
                                  [&](const auto& row) { return row[column] == "–"; });
    if (empty) continue;
    out.header.push_back(table.header[column]);
    for (size_t r = 0; r < table.rows.size(); ++r) out.rows[r].push_back(table.rows[r][column]);
  }
  return out;
}

std::string to_markdown(const HtmlTable& table) {
  std::vector<std::vector<std::string>> lines = {table.header};
  lines.insert(lines.end(), table.rows.begin(), table.rows.end());
  std::vector<size_t> widths(table.header.size(), 3);
  for (auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      std::replace_if(
          line[i].begin(), line[i].end(),
          [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == '|'; }, ' ');
      widths[i] = std::max(widths[i], width(line[i]));
    }
  }
  std::vector<std::string> out;
  for (const auto& line : lines) {
    std::string text = "|";
    for (size_t i = 0; i < line.size(); ++i) {
      const std::string padding(widths[i] - width(line[i]), ' ');
      text += i == 0 ? " " + line[i] + padding + " |" : " " + padding + line[i] + " |";
    }
    out.push_back(text + "\n");
  }
  std::string rule = "|";
  for (size_t i = 0; i < widths.size(); ++i) {
    rule += i == 0 ? std::string(widths[i] + 2, '-') + "|" : std::string(widths[i] + 1, '-') + ":|";
  }
  out.insert(out.begin() + 1, rule + "\n");
  return fmt::format("{}", fmt::join(out, ""));
}

Json summary_json(const std::vector<RunData>& runs) {
  Json summary = Json::object();
  const Measurement common = common_measurement(perplexities_of(runs));
  for (const RunData& run : runs) {
    const ShownPerplexity shown = shown_perplexity(run.perplexities(), common);
    Json perplexity = Json::object();
    for (const auto& [bits, value] : shown.by_bits) perplexity[bits] = finite_or_null(value);
    summary[run.key] = {{"tokens", static_cast<int64_t>(std::llround(run.tokens))},
                        {"loss", finite_or_null(run.final_validation_loss())},
                        {"excess_kurtosis", finite_or_null(run.outliers().kurtosis)},
                        {"largest_activation", finite_or_null(run.outliers().largest.value)},
                        {"outliers_measured_on", measurement_json(run.outliers().at)},
                        {"outlier_tax",
                         {{"bits", run.cost.bits.empty() ? Json() : Json(run.cost.bits)},
                          {"measured_on", measurement_json(run.cost.at)},
                          {"nats", finite_or_null(run.cost.tax)},
                          {"error", finite_or_null(run.cost.error)},
                          {"share", finite_or_null(run.cost.share)},
                          {"readers_share", finite_or_null(run.cost.readers_share)}}},
                        {"perplexity", perplexity},
                        {"measured_on", measurement_json(shown.at)}};
  }
  return summary;
}

std::string headline(const std::vector<RunData>& runs) {
  OSP_CHECK(!runs.empty(), "a headline on no run");
  // The last outlier-safe run is compared with the other trained ones.
  const RunData* osp = nullptr;
  std::vector<const RunData*> others;
  for (const RunData& run : runs) {
    const RecipeKind kind = recipe_kind(run.recipe);
    if (kind.outlier_safe()) {
      osp = &run;
    } else if (kind.known) {
      others.push_back(&run);
    }
  }
  if (!osp || others.empty()) return plain_headline(runs);
  // It names a run at the same learning rate if there is one, else the first.
  const auto same = std::find_if(others.begin(), others.end(),
                                 [&](const RunData* run) { return same_rate(*run, *osp); });
  const RunData& shown = same == others.end() ? *others.front() : **same;
  const Measurement at = common_measurement(perplexities_of(runs));
  return tax_sentence(shown, *osp) + outlier_sentence(shown, *osp) + " " +
         four_bit_sentence(others, *osp, at);
}

}  // namespace osp
