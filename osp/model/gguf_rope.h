// Scaled rotary embeddings in GGUF files: Llama 3.1 and later carry a tensor rope_freqs.weight with
// the divisor of each frequency. config.json says the same in four numbers.
//
// Tested by gguf_names_test.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "osp/base/json.h"
#include "osp/ops/rope_scaling.h"

namespace osp {

// The divisors of the frequencies base^(−2i/K), i < K/2, of config.json's rope type "llama3" with
// low_freq_factor 1, high_freq_factor 4 and original_max_position_embeddings 8192:
//   1 for wavelengths 2π/f below 8192/4, `factor` above 8192, and between them
//   1 / ((1 − s)/factor + s),  s = (8192 f / 2π − 1) / 3.
std::vector<double> llama3_divisors(double base, int64_t head_size, double factor);

// config.json's "rope_scaling" for such a tensor: null if all divisors are 1, discarded if they are
// not these for any factor.
Json rope_scaling_of_divisors(std::span<const float> divisors, double base);

// True if llama3_divisors say all about the scaling: the published constants, with any factor.
bool has_llama3_divisors(const RopeScaling& scaling);

}  // namespace osp
