#include "osp/runtime/packed_linear.h"

#include <algorithm>

#include "osp/base/error.h"

namespace osp {
namespace {

using kernels::kLineBytes;
using kernels::kPanelOutputs;

// Where the panels of a part go.
struct PanelPlace {
  int64_t first, step;
  int64_t of(int64_t panel) const { return first + panel * step; }
};

// A PackedLinear that is being filled.
struct Packing {
  int bits;
  int64_t segment, segments, panel_bytes;
  AlignedMemory panels;
  std::vector<float> scale, centre, bias;
  std::vector<int32_t> shifted;
};

void pack_scales(const QuantizedLinear& weight, int64_t panel, int64_t place, Packing& out) {
  const int64_t K = weight.columns(), segments = out.segments;
  const int64_t group = weight.group > 0 ? weight.group : K;
  const int8_t* codes = weight.codes.const_data_ptr<int8_t>();
  const float* scale = weight.scale.const_data_ptr<float>();
  const int8_t* zero = weight.symmetric() ? nullptr : weight.zero.const_data_ptr<int8_t>();
  for (int64_t o = 0; o < kPanelOutputs; ++o) {
    const int64_t row = panel * kPanelOutputs + o;
    for (int64_t t = 0; t < segments; ++t) {
      const int64_t g = t * out.segment / group;
      const int64_t z = zero == nullptr ? 0 : zero[row * weight.groups() + g];
      int64_t centre = 0;
      for (int64_t c = t * out.segment; c < (t + 1) * out.segment; ++c) {
        centre += codes[row * K + c] - z;
      }
      const size_t at = static_cast<size_t>((place * segments + t) * kPanelOutputs + o);
      out.scale[at] = scale[row * weight.groups() + g];
      out.centre[at] = static_cast<float>(centre);
      out.shifted[at] = static_cast<int32_t>((out.bits == 4 ? 8 : 128) + z);
    }
  }
}

void pack_part(const LinearPart& part, PanelPlace place, Packing& out) {
  const int64_t K = part.weight->columns();
  const at::Tensor codes = part.weight->codes.contiguous();
  for (int64_t panel = 0; panel < part.weight->rows() / kPanelOutputs; ++panel) {
    const int64_t to = place.of(panel);
    const auto pack = out.bits == 4 ? pack_panel : pack_byte_panel;
    pack(codes.const_data_ptr<int8_t>() + panel * kPanelOutputs * K, K,
         out.panels.data() + to * out.panel_bytes);
    pack_scales(*part.weight, panel, to, out);
    for (int64_t o = 0; part.bias.defined() && o < kPanelOutputs; ++o) {
      out.bias[static_cast<size_t>(to * kPanelOutputs + o)] =
          static_cast<float>(part.bias.const_data_ptr<double>()[panel * kPanelOutputs + o]);
    }
  }
}

}  // namespace

kernels::PanelScales PackedLinear::scales(int64_t panel) const {
  const int64_t at = panel * segments() * kPanelOutputs;
  return {segments(),
          scale.data() + at,
          centre.data() + at,
          shifted.data() + at,
          bias.empty() ? nullptr : bias.data() + panel * kPanelOutputs,
          all_eight};
}

void PackedLinear::find_all_eight() {
  const std::span<const int32_t> u = shifted;
  all_eight = std::all_of(u.begin(), u.end(), [](int32_t x) { return x == 8; });
}

int64_t common_segment(int64_t weight_group, int64_t activation_group, int64_t columns) {
  const int64_t w = weight_group > 0 ? weight_group : columns;
  const int64_t a = activation_group > 0 ? activation_group : columns;
  const int64_t small = std::min(w, a), large = std::max(w, a);
  return large % small == 0 ? small : 0;
}

void pack_panel(const int8_t* codes, int64_t columns, uint8_t* panel) {
  for (int64_t i = 0; i < columns / 8; ++i) {
    uint8_t* line = panel + i * kLineBytes;
    for (int64_t o = 0; o < kPanelOutputs; ++o) {
      const int8_t* eight = codes + o * columns + 8 * i;
      for (int64_t j = 0; j < 4; ++j) {
        line[4 * o + j] = static_cast<uint8_t>((eight[j] + 8) | (eight[4 + j] + 8) << 4);
      }
    }
  }
}

void pack_byte_panel(const int8_t* codes, int64_t columns, uint8_t* panel) {
  for (int64_t i = 0; i < columns / 4; ++i) {
    for (int64_t o = 0; o < kPanelOutputs; ++o) {
      for (int64_t j = 0; j < 4; ++j) {
        panel[i * kLineBytes + 4 * o + j] =
            static_cast<uint8_t>(codes[o * columns + 4 * i + j] + 128);
      }
    }
  }
}

PackedLinear pack_linear(const std::vector<LinearPart>& parts, int64_t segment, bool in_turns) {
  PackedLinear out;
  out.columns = parts.front().weight->columns();
  out.segment = segment;
  // Add up the outputs, and find the widest codes of all parts.
  bool biased = false;
  for (const LinearPart& part : parts) {
    OSP_CHECK(part.weight->bits <= 8 && part.weight->columns() == out.columns &&
                  part.weight->rows() % kPanelOutputs == 0 && out.columns % kPanelOutputs == 0,
              "a weight [{}, {}] of {} bits", part.weight->rows(), part.weight->columns(),
              part.weight->bits);
    out.outputs += part.weight->rows();
    if (part.weight->bits > 4) out.bits = 8;
    biased = biased || part.bias.defined();
  }
  // Allocate panels and scales.
  const auto scales = static_cast<size_t>(out.outputs * out.segments());
  Packing packing{
      .bits = out.bits,
      .segment = segment,
      .segments = out.segments(),
      .panel_bytes = out.panel_bytes(),
      .panels = AlignedMemory(static_cast<size_t>(out.panel_count() * out.panel_bytes())),
      .scale = std::vector<float>(scales),
      .centre = std::vector<float>(scales),
      .bias = std::vector<float>(biased ? static_cast<size_t>(out.outputs) : 0),
      .shifted = std::vector<int32_t>(scales)};
  // Pack each part behind the one before, or panels of the parts in turns.
  int64_t before = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto index = static_cast<int64_t>(i), count = static_cast<int64_t>(parts.size());
    pack_part(parts[i], in_turns ? PanelPlace{index, count} : PanelPlace{before, 1}, packing);
    before += parts[i].weight->rows() / kPanelOutputs;
  }
  // Hand the memory over.
  out.panels = std::move(packing.panels);
  out.scale = std::move(packing.scale);
  out.centre = std::move(packing.centre);
  out.shifted = std::move(packing.shifted);
  out.find_all_eight();
  out.bias = std::move(packing.bias);
  return out;
}

}  // namespace osp
