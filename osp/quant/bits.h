// Widths of weights, activations and KV cache, written "4-4-4"; 16 means: not quantized.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace osp {

struct BitWidths {
  int64_t weights = 16;
  int64_t activations = 16;
  int64_t kv_cache = 16;

  bool quantizes_weights() const { return weights < 16; }
  bool quantizes_activations() const { return activations < 16; }
  bool quantizes_kv_cache() const { return kv_cache < 16; }
  // "4-4-4"
  std::string text() const;
  bool operator==(const BitWidths&) const = default;
};

// Each number 2 … 8 or 16. Error(usage) that quotes the text and says the form.
BitWidths parse_bits(std::string_view text);

// A list separated by commas, at least one.
std::vector<BitWidths> parse_bits_list(std::string_view text);

}  // namespace osp
