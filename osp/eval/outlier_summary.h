// An outlier report as JSON (docs/formats.md, "osp analyze --json") and as text with a verdict.
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/measure/outliers.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

// A mean excess kurtosis from here on is called "has outliers". A Gaussian has 0; the models of the
// demo lie well on either side.
inline constexpr double kOutlierKurtosis = 0.5;

// Everything of the report; `tokenizer` spells the token of the largest activation, null without.
Json outlier_json(const OutlierReport& report, const Tokenizer* tokenizer);

// Table per residual state, largest activation and logit, and one sentence of verdict at the end.
std::string outlier_text(const OutlierReport& report, const Tokenizer* tokenizer);

// The verdict alone.
std::string outlier_verdict(const OutlierReport& report);

// "residual", "query" … as in the JSON.
std::string tap_point_name(TapPoint point);

}  // namespace osp
