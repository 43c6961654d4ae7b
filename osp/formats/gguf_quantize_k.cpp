#include "osp/formats/gguf_quantize_k.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "osp/formats/half.h"

namespace osp {
namespace {

constexpr int kValues = 256;

// x ≈ scale · q − min for the values of a part; min is 0 for Q6_K.
struct Fit {
  float scale = 0;
  float min = 0;
  double error = 0;  // Σ (scale q − min − x)²
};

// The code nearest to (x + min) / scale.
int nearest(float x, float scale, float min, int low, int high) {
  if (scale == 0.0f) return std::clamp(0, low, high);
  const float code = (x + min) / scale;
  return static_cast<int>(std::lrint(std::clamp(code, float(low), float(high))));
}

double error_of(const float* x, int count, float scale, float min, int low, int high) {
  double error = 0;
  for (int i = 0; i < count; ++i) {
    const auto code = static_cast<float>(nearest(x[i], scale, min, low, high));
    const double difference = double{scale * code - min} - double{x[i]};
    error += difference * difference;
  }
  return error;
}

// Scale and minimum (at least 0) of codes from 0 to 15. From each of several scales around that of
// the range the codes follow, and from the codes the line of least squares through them.
Fit fit_affine(const float* x, int count) {
  const auto [lowest, highest] = std::minmax_element(x, x + count);
  const float low = std::min(0.0f, *lowest), high = std::max(*highest, low);
  Fit best{0, -low, 0};
  best.error = error_of(x, count, 0, best.min, 0, 15);
  if (high == low) return best;
  const auto keep = [&](float scale, float min) {
    if (!(scale > 0)) return;
    const double error = error_of(x, count, scale, min, 0, 15);
    if (error < best.error) best = {scale, min, error};
  };
  for (int step = -4; step <= 10; ++step) {
    const float scale = (high - low) / (15.0f + 0.25f * static_cast<float>(step));
    keep(scale, -low);
    double q = 0, qq = 0, xs = 0, qx = 0;
    for (int i = 0; i < count; ++i) {
      const double code = nearest(x[i], scale, -low, 0, 15);
      q += code;
      qq += code * code;
      xs += x[i];
      qx += code * x[i];
    }
    const double spread = count * qq - q * q;
    if (spread <= 0) continue;
    double slope = (count * qx - q * xs) / spread, offset = (xs - slope * q) / count;
    if (offset > 0) offset = 0, slope = qx / qq;  // no part may begin above 0
    keep(static_cast<float>(slope), static_cast<float>(-offset));
  }
  return best;
}

// The scale, of either sign, of codes from −32 to 31.
Fit fit_symmetric(const float* x, int count) {
  float extreme = 0;
  Fit best;
  for (int i = 0; i < count; ++i) {
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
    best.error += double{x[i]} * x[i];
  }
  const auto keep = [&](float scale) {
    const double error = error_of(x, count, scale, 0, -32, 31);
    if (error < best.error) best = {scale, 0, error};
  };
  if (extreme == 0.0f) return best;
  for (int step = -6; step <= 6; ++step) {
    const float scale = extreme / (-32.0f + 0.25f * static_cast<float>(step));
    double qq = 0, qx = 0;
    for (int i = 0; i < count; ++i) {
      const double code = nearest(x[i], scale, 0, -32, 31);
      qq += code * code;
      qx += code * x[i];
    }
    if (qq > 0) keep(static_cast<float>(qx / qq));
  }
  return best;
}

// The unit of which `extreme` is `steps` times as much, in fp16: rounded to nearest, and away from
// zero where a subnormal number would leave the extreme out of reach.
float stored_unit(float extreme, float steps, uint8_t* out) {
  uint16_t half = float_to_half(extreme / steps);
  const float reach = std::fabs(half_to_float(half) * steps);
  if (reach < std::fabs(extreme) * (1 - 0x1p-10f)) ++half;
  std::memcpy(out, &half, sizeof(half));
  return half_to_float(half);
}

// Whole multiples of two unit scales that a part has.
struct Units {
  int scale = 0, min = 0;
};

int multiple(float value, float unit, int low, int high) {
  if (unit == 0.0f) return 0;
  return static_cast<int>(std::lrint(std::clamp(value / unit, float(low), float(high))));
}

// The neighbours of `start` (each number moved by at most one) with the least error of the part.
template <class Error>
Units best_neighbour(Units start, int low, int high, bool has_min, const Error& error) {
  Units best = start;
  double least = error(start);
  for (int s = -1; s <= 1; ++s) {
    for (int m = has_min ? -1 : 0; m <= (has_min ? 1 : 0); ++m) {
      const Units moved = {std::clamp(start.scale + s, low, high),
                           has_min ? std::clamp(start.min + m, low, high) : 0};
      if (const double now = error(moved); now < least) least = now, best = moved;
    }
  }
  return best;
}

}  // namespace

void gguf_quantize_q4_k(const float* values, uint8_t* block) {
  constexpr int kParts = 8, kPart = kValues / kParts;
  // Fit the parts, then scales and minima to two units for all.
  std::array<Fit, kParts> fits;
  float scale = 0, min = 0;
  for (int p = 0; p < kParts; ++p) {
    fits[size_t(p)] = fit_affine(values + p * kPart, kPart);
    scale = std::max(scale, fits[size_t(p)].scale);
    min = std::max(min, fits[size_t(p)].min);
  }
  const float d = stored_unit(scale, 63, block), d_min = stored_unit(min, 63, block + 2);
  std::memset(block + 4, 0, 12 + kValues / 2);
  for (int p = 0; p < kParts; ++p) {
    const float* const x = values + p * kPart;
    const Units start = {multiple(fits[size_t(p)].scale, d, 0, 63),
                         multiple(fits[size_t(p)].min, d_min, 0, 63)};
    const auto scale_of = [&](const Units& u) { return d * static_cast<float>(u.scale); };
    const auto min_of = [&](const Units& u) { return d_min * static_cast<float>(u.min); };
    const Units units = best_neighbour(start, 0, 63, true, [&](const Units& u) {
      return error_of(x, kPart, scale_of(u), min_of(u), 0, 15);
    });
    // The places of the two 6-bit numbers are those that scale_min() in gguf_blocks.cpp reads.
    uint8_t* const packed = block + 4;
    if (p < 4) {
      packed[p] = static_cast<uint8_t>(packed[p] | units.scale);
      packed[p + 4] = static_cast<uint8_t>(packed[p + 4] | units.min);
    } else {
      packed[p + 4] = static_cast<uint8_t>((units.scale & 15) | (units.min & 15) << 4);
      packed[p - 4] = static_cast<uint8_t>(packed[p - 4] | units.scale >> 4 << 6);
      packed[p] = static_cast<uint8_t>(packed[p] | units.min >> 4 << 6);
    }
    uint8_t* const codes = block + 16 + p / 2 * kPart;
    for (int i = 0; i < kPart; ++i) {
      const int code = nearest(x[i], scale_of(units), min_of(units), 0, 15);
      codes[i] = static_cast<uint8_t>(codes[i] | code << p % 2 * 4);
    }
  }
}

void gguf_quantize_q6_k(const float* values, uint8_t* block) {
  constexpr int kParts = 16, kPart = kValues / kParts;
  std::array<Fit, kParts> fits;
  float extreme = 0;
  for (int p = 0; p < kParts; ++p) {
    fits[size_t(p)] = fit_symmetric(values + p * kPart, kPart);
    if (std::fabs(fits[size_t(p)].scale) > std::fabs(extreme)) extreme = fits[size_t(p)].scale;
  }
  std::memset(block, 0, 192);
  const float d = stored_unit(extreme, -128, block + 208);
  for (int p = 0; p < kParts; ++p) {
    const float* const x = values + p * kPart;
    const auto scale_of = [&](const Units& u) { return d * static_cast<float>(u.scale); };
    const Units units =
        best_neighbour({multiple(fits[size_t(p)].scale, d, -128, 127), 0}, -128, 127, false,
                       [&](const Units& u) { return error_of(x, kPart, scale_of(u), 0, -32, 31); });
    block[192 + p] = static_cast<uint8_t>(static_cast<int8_t>(units.scale));
    // The places of the six bits are those that block_q6_k() in gguf_blocks.cpp reads.
    const int run = p / 2, in_half = run % 4, first = p % 2 * kPart;
    uint8_t* const low = block + run / 4 * 64 + in_half % 2 * 32 + first;
    uint8_t* const high = block + 128 + run / 4 * 32 + first;
    for (int i = 0; i < kPart; ++i) {
      const int code = nearest(x[i], scale_of(units), 0, -32, 31) + 32;
      low[i] = static_cast<uint8_t>(low[i] | (code & 15) << in_half / 2 * 4);
      high[i] = static_cast<uint8_t>(high[i] | code >> 4 << in_half * 2);
    }
  }
}

}  // namespace osp
