// An outlier report as JSON (docs/formats.md, "osp analyze --json") and as text with a verdict.
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/measure/outliers.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

// From this mean excess kurtosis on, the verdict is "has outliers". A Gaussian has 0; the demo's
// models are well on either side.
inline constexpr double kOutlierKurtosis = 0.5;

// The whole report; `tokenizer` spells the token of the largest activation, nullptr leaves it null.
Json outlier_json(const OutlierReport& report, const Tokenizer* tokenizer);

// A table with a row per residual state, the largest activation and logit, and the verdict.
std::string outlier_text(const OutlierReport& report, const Tokenizer* tokenizer);

// The verdict alone, one sentence.
std::string outlier_verdict(const OutlierReport& report);

// The name in the JSON: "residual", "query", …
std::string tap_point_name(TapPoint point);
// The same in words, "MLP product", and the place of a residual state, "behind block 3".
std::string tap_point_words(TapPoint point);
std::string state_words(int64_t layer);

}  // namespace osp
