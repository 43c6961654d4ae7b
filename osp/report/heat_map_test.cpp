#include "osp/report/heat_map.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace osp {
namespace {

TEST(HeatMap, KeepsASpikeOfOneValidationInOneLayer) {
  for (const size_t at : {0u, 4321u, 9999u}) {
    RunData run;
    for (size_t i = 0; i < 10000; ++i) {
      run.kurtosis.add(static_cast<double>(i), 0.1);
      run.kurtosis_per_layer.push_back({0.1, i == at ? 77.0 : 0.1, i % 7 == 0 ? kNan : 0.1});
    }
    const Chart chart = kurtosis_heat_map({run});
    const Json& layer = chart.traces[0]["customdata"][1];
    EXPECT_LE(layer.size(), 120u);
    EXPECT_EQ(std::count(layer.begin(), layer.end(), Json(77.0)), 1) << at;
  }
}

}  // namespace
}  // namespace osp
