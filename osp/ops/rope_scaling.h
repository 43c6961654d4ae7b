// Scaling of the rotary embedding's frequencies for contexts longer than the one that the base was
// chosen for. Names and formulas are those of config.json's rope_scaling.
#pragma once

#include <cstdint>
#include <string>

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
  std::string type = "default";
  double factor = 1.0;
  double low_frequency_factor = 1.0;
  double high_frequency_factor = 4.0;
  int64_t original_context = 8192;

  bool operator==(const RopeScaling&) const = default;
};

}  // namespace osp
