#include "osp/ptq/quantize_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "osp/base/json_number.h"

namespace osp {
namespace {

std::vector<std::string> distinct(const Table& table, std::string TableEntry::*field) {
  std::vector<std::string> names;
  for (const TableEntry& entry : table.entries) {
    if (std::find(names.begin(), names.end(), entry.*field) == names.end()) {
      names.push_back(entry.*field);
    }
  }
  return names;
}

// A number of every entry of a model, and of a method if one is named.
template <class Value>
std::vector<double> values(const Table& table, const std::string& model, const std::string& method,
                           const Value& value) {
  std::vector<double> found;
  for (const TableEntry& entry : table.entries) {
    if (entry.refused.empty() && entry.model == model &&
        (method.empty() || entry.method == method)) {
      found.push_back(value(entry));
    }
  }
  return found;
}

// Why a model was not quantized by a method, "" if it was.
std::string refusal(const Table& table, const std::string& model, const std::string& method) {
  for (const TableEntry& entry : table.entries) {
    if (entry.model == model && entry.method == method && !entry.refused.empty()) {
      return entry.refused;
    }
  }
  return "";
}

std::string shown(const Spread& spread, int digits) {
  if (spread.count == 0 || !std::isfinite(spread.mean)) return "-";
  // Large numbers with as many digits as mean something.
  const int decimals = spread.mean < 1000.0 ? digits : 0;
  const std::string mean = fmt::format("{:.{}f}", spread.mean, decimals);
  if (spread.count < 2) return mean;
  return fmt::format("{}±{:.{}f}", mean, spread.deviation, decimals);
}

// The last part of a path, with the one before it where it is only "model".
std::string short_name(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  if (path.ends_with("/model")) path = path.substr(0, path.size() - 6);
  return path.substr(path.rfind('/') + 1);
}

// Rows of cells as Markdown, columns as wide as their longest cell.
std::string markdown(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(rows[0].size(), 3);
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) {
      // fmt pads by width on screen, in which ± is one character of two bytes.
      const auto more = static_cast<size_t>(std::count(row[c].begin(), row[c].end(), '\xc2'));
      widths[c] = std::max(widths[c], row[c].size() - more);
    }
  }
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < rows[r].size(); ++c) {
      text += c == 0 ? fmt::format("| {:<{}} |", rows[r][c], widths[c])
                     : fmt::format(" {:>{}} |", rows[r][c], widths[c]);
    }
    text += "\n";
    if (r > 0) continue;
    for (size_t c = 0; c < widths.size(); ++c) {
      text += c == 0 ? "|" + std::string(widths[c] + 2, '-') + "|"
                     : std::string(widths[c] + 1, '-') + ":|";
    }
    text += "\n";
  }
  return text;
}

// A row per method and one before them; a cell per model.
template <class Original, class Changed>
std::string rows_text(const Table& table, const std::string& title, const Original& original,
                      const Changed& changed) {
  const std::vector<std::string> models = distinct(table, &TableEntry::model);
  std::vector<std::vector<std::string>> rows = {{title}, {"16-16-16"}};
  for (const std::string& model : models) {
    rows[0].push_back(short_name(model));
    rows[1].push_back(original(model));
  }
  for (const std::string& method : distinct(table, &TableEntry::method)) {
    rows.push_back({table.bits + " " + method});
    for (const std::string& model : models) rows.back().push_back(changed(model, method));
  }
  return markdown(rows);
}

}  // namespace

double bits_per_byte(double perplexity, const TableEntry& entry) {
  if (entry.bytes <= 0.0) return std::numeric_limits<double>::quiet_NaN();
  return std::log2(perplexity) * static_cast<double>(entry.tokens) / entry.bytes;
}

Spread spread_of(const std::vector<double>& values) {
  Spread spread;
  spread.count = static_cast<int64_t>(values.size());
  if (values.empty()) return spread;
  for (const double value : values) spread.mean += value / static_cast<double>(spread.count);
  if (spread.count < 2) return spread;
  double sum = 0.0;
  for (const double value : values) sum += (value - spread.mean) * (value - spread.mean);
  spread.deviation = std::sqrt(sum / static_cast<double>(spread.count - 1));
  return spread;
}

Json table_entry_json(const TableEntry& entry) {
  return {{"method", entry.method},
          {"perplexity_16", finite_or_null(entry.original_perplexity)},
          {"perplexity", finite_or_null(entry.perplexity)},
          {"kl_divergence", finite_or_null(entry.divergence)},
          {"same_choice", finite_or_null(entry.same_choice)},
          {"bits_per_byte_16", finite_or_null(bits_per_byte(entry.original_perplexity, entry))},
          {"bits_per_byte", finite_or_null(bits_per_byte(entry.perplexity, entry))},
          {"tokens", entry.tokens},
          {"window", entry.window},
          {"text_bytes", entry.bytes},
          {"vocabulary", entry.vocabulary}};
}

TableEntry parse_table_entry(const Json& measured, const std::string& where) {
  const auto number = [&](const char* key) {
    const auto found = measured.find(key);
    if (found != measured.end() && found->is_null()) {
      return std::numeric_limits<double>::quiet_NaN();
    }
    return json_number(measured, key, where);
  };
  return {.model = {},
          .method = json_string(measured, "method", where),
          .original_perplexity = number("perplexity_16"),
          .perplexity = number("perplexity"),
          .divergence = number("kl_divergence"),
          .same_choice = number("same_choice"),
          .tokens = json_int(measured, "tokens", where),
          .window = json_int(measured, "window", where),
          .bytes = number("text_bytes"),
          .vocabulary = json_int(measured, "vocabulary", where)};
}

std::string table_text(const Table& table) {
  const auto cell = [&](const std::string& model, const std::string& method, int digits,
                        const auto& value) {
    return shown(spread_of(values(table, model, method, value)), digits);
  };
  const auto first = [&](const std::string& model, int digits, const auto& value) {
    const std::vector<double> measured = values(table, model, "", value);
    return measured.empty() ? "-" : shown(spread_of({measured.front()}), digits);
  };
  std::string text = rows_text(
      table, "perplexity (KL)",
      [&](const std::string& model) {
        return first(model, 3, [](const TableEntry& e) { return e.original_perplexity; });
      },
      [&](const std::string& model, const std::string& method) {
        if (!refusal(table, model, method).empty()) return std::string("refused");
        return fmt::format(
            "{} ({})", cell(model, method, 3, [](const TableEntry& e) { return e.perplexity; }),
            cell(model, method, 4, [](const TableEntry& e) { return e.divergence; }));
      });
  for (const std::string& method : distinct(table, &TableEntry::method)) {
    for (const std::string& model : distinct(table, &TableEntry::model)) {
      const std::string reason = refusal(table, model, method);
      if (!reason.empty()) text += fmt::format("\n{} is refused: {}\n", method, reason);
    }
  }
  std::set<int64_t> vocabularies;
  for (const TableEntry& entry : table.entries) {
    if (entry.refused.empty()) vocabularies.insert(entry.vocabulary);
  }
  if (vocabularies.size() < 2) return text;
  return text + "\n" +
         rows_text(
             table, "bits per byte",
             [&](const std::string& model) {
               return first(model, 4, [](const TableEntry& e) {
                 return bits_per_byte(e.original_perplexity, e);
               });
             },
             [&](const std::string& model, const std::string& method) {
               if (!refusal(table, model, method).empty()) return std::string("refused");
               return cell(model, method, 4,
                           [](const TableEntry& e) { return bits_per_byte(e.perplexity, e); });
             });
}

}  // namespace osp
