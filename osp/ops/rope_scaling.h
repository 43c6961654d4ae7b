// Scaling of the rotary embedding's frequencies for contexts longer than the one that the base was
// chosen for. Names and formulas are those of config.json's rope_scaling.
//
// Tested by rope_test.cpp and tests/python/test_families.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace osp {

struct RopeScaling {
  // "default"  f
  // "linear"   f / factor
  // "llama3"   f                              for wavelengths 2π / f below
  //                                           original_context / high_frequency_factor,
  //            f / factor                     above original_context / low_frequency_factor,
  //            s · f + (1 − s) · f / factor   between them, with
  //   s = (original_context · f / 2π − low_frequency_factor) /
  //       (high_frequency_factor − low_frequency_factor)
  // "yarn"     s · f + (1 − s) · f / factor, where s falls from 1 to 0 between the channel pairs
  //            that turn beta_fast and beta_slow times within original_context tokens
  //            (YaRN, arXiv:2309.00071), whole pairs with `truncate`
  // "longrope" f / short_factor[i], in texts of more than original_context tokens
  //            f / long_factor[i] (arXiv:2402.13753)
  // "dynamic"  f; in texts of more than original_context tokens the base would grow with the text,
  //            which is refused
  std::string type = "default";
  double factor = 1.0;
  double low_frequency_factor = 1.0;
  double high_frequency_factor = 4.0;
  int64_t original_context = 8192;
  double beta_fast = 32.0, beta_slow = 1.0;
  bool truncate = true;
  std::vector<double> short_factor = {}, long_factor = {};  // one for each pair
  // Factor of cos and sin ("yarn", "longrope"); 0: see rotary_magnitude().
  double attention_factor = 0.0;
  double mscale = 0.0, mscale_all_dim = 0.0;
  // Queries at position p are multiplied by 1 + query_growth · ln(1 + floor(p / original_context)).
  double query_growth = 0.0;

  bool operator==(const RopeScaling&) const = default;
};

// The factor of cos and sin: attention_factor, else for "yarn"
// (0.1 mscale ln(factor) + 1) / (0.1 mscale_all_dim ln(factor) + 1), both 1 and 0 where one of them
// is not given, and for "longrope" sqrt(1 + ln(factor) / ln(original_context)); 1 for
// factors up to 1.
double rotary_magnitude(const RopeScaling& scaling);

// True if a text of this many tokens has other frequencies than its beginning of original_context.
bool beyond_original(const RopeScaling& scaling, int64_t tokens);

// Error(unsupported) if a text of which `held` tokens (0: none) are in a cache of keys cannot grow
// to `total`: "longrope" would turn the held keys anew, "dynamic" all of them with each token.
void check_rotary_growth(const RopeScaling& scaling, int64_t held, int64_t total);

// The partial_rotary_factor that means so many channels of a head: a fraction f as near to
// channels / head as fp64 allows with ⌊f · head⌋ = channels, which is how it is read (the quotient
// itself would mean 57 of 58 channels of 100).
double rotary_fraction(int64_t channels, int64_t head);

// The factor of queries at a position.
double query_scale(const RopeScaling& scaling, int64_t position);

}  // namespace osp
