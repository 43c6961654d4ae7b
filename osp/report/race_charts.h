// A race on the page: two arms (Adam's models and OSP's, say) trained for several lengths with the
// same seeds, and what rounding to 4 bits costs each after each length. File: docs/formats.md.
//
// Tested by race_charts_test.cpp and tests/python/test_report_browser.py.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/report/chart.h"
#include "osp/report/run_data.h"

namespace osp {

// What one run gave: nats per token; NaN where it was not measured.
struct RaceRun {
  double loss = 0;        // at 16 bits
  double added_nats = 0;  // loss at 4-4-4 less that at 16 bits
  double tax = 0;         // the outlier tax
};

// The two arms with one seed after one length.
struct RacePair {
  int64_t tokens = 0;
  int64_t seed = 0;
  std::array<RaceRun, 2> runs = {};
  double ratio() const;  // added nats of the first arm over those of the second
};

struct Race {
  std::array<std::string, 2> arms = {};
  std::vector<RacePair> pairs = {};  // ascending by tokens, then by seed
};

// Error(damaged), naming the file and the key, for a file that is not as docs/formats.md says.
Race read_race(const Json& file, const std::string& where);

// "After 51,200,000 tokens Adam's models lose 1.40 to 1.61 times as much as OSP's": the longest.
std::string race_sentence(const Race& race);

// The tax of both arms and their ratio over the tokens, a mark per seed. An arm looks like the
// model whose label is its name, if there is one among `models`. None for a race without pairs.
std::vector<Chart> race_charts(const Race& race, const std::vector<RunData>& models);

}  // namespace osp
