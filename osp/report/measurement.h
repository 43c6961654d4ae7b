// The data that a perplexity was measured on. Perplexities of different texts, token counts or
// windows are different quantities: they are never put into one figure, and each stands beside
// its measurement.
//
// Tested by tests/python/test_report_measurements.py.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace osp {

// The bits of the table's two perplexities: unquantized, and rounded to nearest.
inline constexpr const char* kFullBits = "16-16-16";
inline constexpr const char* kFourBits = "4-4-4";

struct Measurement {
  std::string text = {};      // the path of the data, as given; "" if not recorded
  int64_t tokens = 0;         // scored tokens; 0 if not recorded
  int64_t window = 0;         // tokens of a window; 0 if not recorded
  int64_t stride = 0;         // from window to window
  std::string settings = {};  // what else changes the number: groups of scales, prompts
  std::string file = {};      // the file of the result
  bool benchmarks = false;    // tasks: their prompts stand for tokens and windows

  // Equal for two numbers only if they may be compared. Where text, tokens or window are not
  // recorded, only numbers of one file are.
  std::string key() const;
  // "wiki.test, 1,000 tokens, window 256"; "–" for no measurement.
  std::string phrase() const;
};

// Why two measurements cannot be compared: "other text", …; "" if they can.
std::string difference(const Measurement& a, const Measurement& b);

// A model's perplexities on one text, by bits.
struct TextPerplexities {
  Measurement at;
  std::map<std::string, double> by_bits;
  double of(const std::string& bits) const;  // NaN if not measured
  bool whole() const;                        // has 16 and 4 bits
};

// The measurement that gives most models (each a list) both 16 and 4 bits, the first of several;
// without any, the one that most models have at all.
Measurement common_measurement(const std::vector<std::vector<TextPerplexities>>& models);

// A model's two perplexities of one measurement.
struct ShownPerplexity {
  Measurement at = {};
  double full = std::numeric_limits<double>::quiet_NaN();
  double four = std::numeric_limits<double>::quiet_NaN();
  std::string gap = {};  // why there is no damage, though both were measured
  std::map<std::string, double> by_bits = {};
};

// Those of `common` if they are whole, else of the last whole measurement, else of the last one.
ShownPerplexity shown_perplexity(const std::vector<TextPerplexities>& model,
                                 const Measurement& common);

}  // namespace osp
