#include "osp/bench/summary.h"

#include <fmt/format.h>

#include "osp/base/error.h"
#include "osp/base/timing.h"

namespace osp {

std::vector<double> values_of(const std::vector<Json>& runs, const std::string& key) {
  std::vector<double> values;
  for (const Json& run : runs) values.push_back(run.at(key).get<double>());
  return values;
}

double median_of(const std::vector<Json>& runs, const std::string& key) {
  return median(values_of(runs, key));
}

std::vector<double> ratios_by_pair(const std::vector<Json>& above, const std::vector<Json>& below,
                                   const std::string& key) {
  OSP_CHECK(above.size() == below.size(), "{} runs beside {}", above.size(), below.size());
  std::vector<double> ratios;
  for (size_t i = 0; i < above.size(); ++i) {
    ratios.push_back(above[i].at(key).get<double>() / below[i].at(key).get<double>());
  }
  return ratios;
}

double median_ratio(const std::vector<Json>& above, const std::vector<Json>& below,
                    const std::string& key) {
  return median(ratios_by_pair(above, below, key));
}

std::string number_text(const Json& object, const char* key, int digits) {
  if (!object.contains(key) || object[key].is_null()) return "";
  return fmt::format("{:.{}f}", object[key].get<double>(), digits);
}

}  // namespace osp
