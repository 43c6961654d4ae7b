// Number formats of weights, activations and KV cache, written "4-4-4" or "nvfp4-nvfp4-fp8".
//
//   2 … 8    integers of that many bits (osp/quant/grid.h)
//   mxfp4    E2M1 numbers in blocks of 32 with an E8M0 scale (osp/quant/float_grid.h)
//   nvfp4    E2M1 numbers in blocks of 16 with an E4M3 scale, under one fp32 scale
//   fp8      E4M3 numbers with one fp32 scale for each row, token or head of a token
//   16       not quantized
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace osp {

enum class NumberKind { integer, mxfp4, nvfp4, fp8 };

// "mxfp4", "nvfp4" or "fp8"; "int" for integers.
const char* number_kind_name(NumberKind kind);

struct NumberFormat {
  NumberKind kind = NumberKind::integer;
  int64_t bits = 16;

  constexpr NumberFormat() = default;
  // Integers, or with 16 bits no quantization: BitWidths{4, 4, 16}.
  constexpr NumberFormat(int64_t integer_bits) : bits(integer_bits) {}
  constexpr NumberFormat(NumberKind format)
      : kind(format), bits(format == NumberKind::fp8 ? 8 : 4) {}

  constexpr bool is_integer() const { return kind == NumberKind::integer; }
  constexpr bool is_float() const { return kind != NumberKind::integer; }
  constexpr bool quantizes() const { return bits < 16; }
  // "4", "nvfp4"
  std::string text() const;
  bool operator==(const NumberFormat&) const = default;
};

struct BitWidths {
  NumberFormat weights = 16;
  NumberFormat activations = 16;
  NumberFormat kv_cache = 16;

  bool quantizes_weights() const { return weights.quantizes(); }
  bool quantizes_activations() const { return activations.quantizes(); }
  bool quantizes_kv_cache() const { return kv_cache.quantizes(); }
  bool any_float() const {
    return weights.is_float() || activations.is_float() || kv_cache.is_float();
  }
  // True if keys are turned by a Hadamard matrix before they are rounded: those of integer caches.
  // A block of floating-point numbers has a scale of its own, and other programs store
  // keys as they are.
  bool turns_keys() const { return quantizes_kv_cache() && kv_cache.is_integer(); }
  // "4-4-4"
  std::string text() const;
  bool operator==(const BitWidths&) const = default;
};

// Each a number 2 … 8 or 16, or the name of a floating-point format. Error(usage) that quotes the
// text and says the form.
BitWidths parse_bits(std::string_view text);

// A list separated by commas, at least one.
std::vector<BitWidths> parse_bits_list(std::string_view text);

}  // namespace osp
