#include "osp/eval/expert_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "osp/base/json_number.h"

namespace osp {
namespace {

constexpr size_t kWorstListed = 10;

// Least, median and largest of numbers that are finite.
std::string spread_text(const char* what, std::vector<double> numbers) {
  std::erase_if(numbers, [](double x) { return !std::isfinite(x); });
  if (numbers.empty()) return fmt::format("{:<30} nothing was measured\n", what);
  std::sort(numbers.begin(), numbers.end());
  return fmt::format("{:<30} {:>10.2f} {:>10.2f} {:>10.2f}\n", what, numbers.front(),
                     numbers[numbers.size() / 2], numbers.back());
}

}  // namespace

Json expert_json(const StatisticsByExpert& experts) {
  Json list = Json::array();
  for (const auto& [place, statistics] : experts) {
    list.push_back({{"layer", place.first},
                    {"expert", place.second},
                    {"tokens", statistics.tokens},
                    {"input_kurtosis", finite_or_null(statistics.input.mean())},
                    {"down_input_kurtosis", finite_or_null(statistics.down_input.mean())}});
  }
  return list;
}

std::string expert_text(const StatisticsByExpert& experts) {
  if (experts.empty()) return "";
  using Entry = StatisticsByExpert::const_iterator;
  std::vector<Entry> worst;
  std::vector<double> tokens, input, down;
  for (auto entry = experts.begin(); entry != experts.end(); ++entry) {
    const ExpertStatistics& statistics = entry->second;
    tokens.push_back(static_cast<double>(statistics.tokens));
    input.push_back(statistics.input.mean());
    down.push_back(statistics.down_input.mean());
    if (std::isfinite(down.back())) worst.push_back(entry);
  }
  std::stable_sort(worst.begin(), worst.end(), [](const Entry& a, const Entry& b) {
    return a->second.down_input.mean() > b->second.down_input.mean();
  });
  worst.resize(std::min(worst.size(), kWorstListed));
  std::string text = fmt::format("{:<14} {:>10} {:>18} {:>18}\n", "worst experts", "tokens",
                                 "kurtosis of input", "of down's input");
  for (const Entry& entry : worst) {
    const auto& [place, statistics] = *entry;
    text += fmt::format("{:<14} {:>10} {:>18.2f} {:>18.2f}\n",
                        fmt::format("{}, expert {}", place.first, place.second), statistics.tokens,
                        statistics.input.mean(), statistics.down_input.mean());
  }
  const auto idle = std::count(tokens.begin(), tokens.end(), 0.0);
  text += fmt::format("{:<30} {:>10} {:>10} {:>10}\n",
                      fmt::format("{} experts ({} without tokens)", experts.size(), idle), "least",
                      "median", "largest");
  text += spread_text("tokens", tokens) + spread_text("kurtosis of input", input) +
          spread_text("kurtosis of down's input", down);
  return text;
}

}  // namespace osp
