#include "osp/quant/quantize_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace osp {
namespace {

constexpr size_t kColumn = 26;

std::vector<std::string> distinct(const Table& table, std::string TableEntry::*field) {
  std::vector<std::string> names;
  for (const TableEntry& entry : table.entries) {
    if (std::find(names.begin(), names.end(), entry.*field) == names.end()) {
      names.push_back(entry.*field);
    }
  }
  return names;
}

std::vector<double> values(const Table& table, const std::string& model, const std::string& method,
                           double TableEntry::*field) {
  std::vector<double> found;
  for (const TableEntry& entry : table.entries) {
    if (entry.model == model && (method.empty() || entry.method == method)) {
      found.push_back(entry.*field);
    }
  }
  return found;
}

std::string shown(const Spread& spread, int digits) {
  if (spread.count == 0) return "-";
  const std::string mean = fmt::format("{:.{}f}", spread.mean, digits);
  if (spread.count < 2) return mean;
  return fmt::format("{}±{:.{}f}", mean, spread.deviation, digits);
}

// The last part of a path, with the one before it where it is only "model".
std::string short_name(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  if (path.ends_with("/model")) path = path.substr(0, path.size() - 6);
  return path.substr(path.rfind('/') + 1).substr(0, kColumn - 2);
}

}  // namespace

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
  const auto number = [](double value) {
    return std::isfinite(value) ? Json(value) : Json(nullptr);
  };
  return {{"method", entry.method},
          {"perplexity_16", number(entry.original_perplexity)},
          {"perplexity", number(entry.perplexity)},
          {"kl_divergence", number(entry.divergence)},
          {"same_choice", number(entry.same_choice)},
          {"tokens", entry.tokens}};
}

std::string table_text(const Table& table) {
  const std::vector<std::string> models = distinct(table, &TableEntry::model);
  std::string text = fmt::format("{:<22}", "perplexity (KL)");
  for (const std::string& model : models) text += fmt::format("{:>{}}", short_name(model), kColumn);
  text += fmt::format("\n{:<22}", "16-16-16");
  for (const std::string& model : models) {
    const std::vector<double> original = values(table, model, "", &TableEntry::original_perplexity);
    text += fmt::format("{:>{}}", shown(spread_of({original.front()}), 4), kColumn);
  }
  text += "\n";
  for (const std::string& method : distinct(table, &TableEntry::method)) {
    text += fmt::format("{:<22}", table.bits + " " + method);
    for (const std::string& model : models) {
      const Spread perplexity = spread_of(values(table, model, method, &TableEntry::perplexity));
      const Spread divergence = spread_of(values(table, model, method, &TableEntry::divergence));
      // fmt pads by width on screen, ± included.
      text += fmt::format(
          "{:>{}}", fmt::format("{} ({})", shown(perplexity, 3), shown(divergence, 4)), kColumn);
    }
    text += "\n";
  }
  return text;
}

}  // namespace osp
