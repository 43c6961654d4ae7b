#include "osp/report/race_charts.h"

#include <gtest/gtest.h>

#include <cmath>

#include "osp/base/error.h"

namespace osp {
namespace {

Json pair(int64_t tokens, int64_t seed, double first, double second) {
  return {{"tokens", tokens},
          {"seed", seed},
          {"runs",
           {{{"loss", 3.0}, {"added_nats", first}, {"tax", 0.02}},
            {{"loss", 2.5}, {"added_nats", second}, {"tax", nullptr}}}}};
}

Json race_file(const Json& pairs) { return {{"arms", {"Adam", "OSP"}}, {"pairs", pairs}}; }

TEST(RaceCharts, SentenceSpeaksOfTheLongestRuns) {
  const Json file = race_file(
      {pair(2'000'000, 2, 0.3, 0.2), pair(1'000'000, 1, 0.1, 0.2), pair(2'000'000, 1, 0.5, 0.2)});
  EXPECT_EQ(race_sentence(read_race(file, "race.json")),
            "After 2,000,000 tokens of training Adam loses 1.50 to 2.50 times as much at 4 bits as "
            "OSP.");
}

TEST(RaceCharts, MarksAreSeedsAndLinesTheirMeans) {
  const Race race = read_race(race_file({pair(2'000'000, 2, 0.3, 0.2), pair(1'000'000, 1, 0.1, 0.2),
                                         pair(2'000'000, 1, 0.5, 0.2)}),
                              "race.json");
  const std::vector<Chart> charts = race_charts(race, {});
  ASSERT_EQ(charts.size(), 2u);
  // The second arm's tax was not measured.
  EXPECT_EQ(charts[0].id, "tax-training");
  EXPECT_EQ(charts[0].traces.size(), 2u);
  EXPECT_EQ(charts[0].table.rows[0], (std::vector<std::string>{"1,000,000", "1", "0.0200", "–"}));
  const Json& ratios = charts[1].traces;
  EXPECT_EQ(ratios[0]["x"], Json({1e6, 2e6, 2e6}));
  EXPECT_EQ(ratios[0]["y"], Json({0.5, 2.5, 1.5}));
  EXPECT_EQ(ratios[1]["x"], Json({1e6, 2e6}));
  EXPECT_EQ(ratios[1]["y"], Json({0.5, 2.0}));
  EXPECT_EQ(charts[1].layout["xaxis"]["ticktext"], Json({"1M", "2M"}));
}

TEST(RaceCharts, AnArmLooksLikeTheModelOfItsName) {
  const Race race = read_race(race_file(Json::array({pair(1'000'000, 1, 0.1, 0.2)})), "race.json");
  std::vector<RunData> models(3);
  models[2].label = "Adam";
  const std::vector<Chart> charts = race_charts(race, models);
  EXPECT_EQ(charts[0].traces[0]["meta"]["run"], 2);
  EXPECT_EQ(charts[1].traces[0]["meta"]["run"], 5);  // neither a model's nor an arm's
}

TEST(RaceCharts, FilesOfAnotherFormAreRefused) {
  const Json good = race_file(Json::array({pair(1'000'000, 1, 0.1, 0.2)}));
  EXPECT_NO_THROW(read_race(good, "race.json"));
  const auto refused = [&](const char* pointer, const Json& value) {
    Json file = good;
    file[Json::json_pointer(pointer)] = value;
    try {
      read_race(file, "race.json");
    } catch (const Error& error) {
      return std::string(error.what()).find("race.json") != std::string::npos &&
             error.code() == ErrorCode::damaged;
    }
    return false;
  };
  EXPECT_TRUE(refused("/arms", Json::array({"Adam"})));
  EXPECT_TRUE(refused("/arms", {"Adam", 1}));
  EXPECT_TRUE(refused("/pairs", Json::array()));
  EXPECT_TRUE(refused("/pairs", Json::array({1})));
  EXPECT_TRUE(refused("/pairs/0/tokens", 0));
  EXPECT_TRUE(refused("/pairs/0/tokens", "many"));
  EXPECT_TRUE(refused("/pairs/0/runs", Json::array()));
  EXPECT_TRUE(refused("/pairs/0/runs/0/tax", "none"));
}

}  // namespace
}  // namespace osp
