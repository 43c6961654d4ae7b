// The tap points of a model under 4-bit quantization, as JSON (docs/formats.md, "points"), as a
// table and in one sentence: kurtosis, spread of channels, share of the quantization step, SQNR.
// Tested by tests/python/test_analyze.py.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "osp/base/json.h"
#include "osp/measure/outliers.h"
#include "osp/quant/noise_tap.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

// Below this SQNR a point is counted as hurt: the noise is then a tenth of the signal's power. A
// Gaussian row at 4 bits has about 20 dB.
inline constexpr double kHurtSqnrDb = 10.0;

using NoiseByPoint = std::map<std::pair<TapPoint, int64_t>, QuantizationNoise>;

// The measured tokens, to spell the text around a place; the tokenizer may be null.
struct SpelledData {
  std::span<const int64_t> tokens;
  int64_t length = 0;  // tokens per sequence
  const Tokenizer* tokenizer = nullptr;
};

// The object {"points", "largest_activations", "hurts_most"}.
Json point_json(const OutlierReport& report, const NoiseByPoint& noise, const SpelledData& data);

// One line per tap point, averaged over its layers, and the sentence.
std::string point_text(const OutlierReport& report, const NoiseByPoint& noise);
std::string point_verdict(const NoiseByPoint& noise);

}  // namespace osp
