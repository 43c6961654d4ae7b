#include "osp/model/packed_weights.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <array>

#include "osp/formats/compressed_tensors.h"
#include "osp/model/packed_floats.h"

namespace osp {
namespace {

// Code `place` of int32 words with `bits` each.
int64_t code_at(const std::vector<int32_t>& words, int64_t word, int64_t place, int64_t bits) {
  const auto value = static_cast<uint32_t>(words[static_cast<size_t>(word)]);
  return value >> (place * bits) & ((1u << bits) - 1);
}

// The group of each input by an index of the file; undefined if they are in order.
at::Tensor groups_of_inputs(const PackedPart& index, int64_t columns, int64_t group,
                            int64_t groups) {
  if (index.view == nullptr) return {};
  index.check("I32", {columns});
  const std::vector<int32_t> values = index.read<int32_t>();
  at::Tensor result = at::empty({columns}, at::kInt);
  int32_t* const out = result.mutable_data_ptr<int32_t>();
  bool in_order = true;
  for (int64_t i = 0; i < columns; ++i) {
    const int32_t value = values[static_cast<size_t>(i)];
    if (value < 0 || value >= groups) {
      fail(ErrorCode::damaged, "{}: {} names group {} of {}", index.where, index.name, value,
           groups);
    }
    out[i] = value;
    in_order = in_order && value == (group > 0 ? i / group : 0);
  }
  return in_order ? at::Tensor() : result;
}

// Codes and zero points with room for a layer, zero points at 0.
PackedCodes empty_codes(const PackedLayout& layout, int64_t rows, int64_t columns, int64_t groups) {
  return {.codes = at::empty({rows, columns}, at::kChar),
          .scale = at::empty({rows, groups}, at::kFloat),
          .zero = at::zeros({rows, groups}, at::kChar),
          .column_group = {},
          .bits = layout.bits,
          .group = layout.group};
}

void check_shape_part(const PackedPart& shape, int64_t rows, int64_t columns) {
  if (shape.view == nullptr) return;
  shape.check("I64", {2});
  if (shape.read<int64_t>() != std::vector<int64_t>{rows, columns}) {
    fail(ErrorCode::damaged, "{}: weight_shape differs from [{}, {}]", shape.where, rows, columns);
  }
}

// Codes that stand in a byte each, of fewer bits.
void check_range(const PackedPart& part, int64_t bits) {
  const int64_t middle = int64_t{1} << (bits - 1);
  for (const int8_t code : part.read<int8_t>()) {
    if (code >= -middle && code < middle) continue;
    fail(ErrorCode::damaged, "{}: {} holds {}, beyond {} bits", part.where, part.name, code, bits);
  }
}

// The layouts of compressed-tensors, packed and one int8 for each code.
PackedCodes codes_of_compressed(const PackedLayout& layout, int64_t rows, int64_t columns,
                                int64_t groups,
                                const std::function<PackedPart(const std::string&)>& part) {
  const int64_t bits = layout.bits, per_word = 32 / bits;
  PackedCodes result = empty_codes(layout, rows, columns, groups);
  const bool packed = layout.kind == PackedKind::packed_integers;
  // Codes.
  int8_t* const codes = result.codes.mutable_data_ptr<int8_t>();
  if (packed) {
    const PackedPart words = part("weight_packed");
    words.check("I32", {rows, packed_words(columns, bits)});
    check_shape_part(part("weight_shape"), rows, columns);
    const std::vector<int8_t> unpacked = unpack_codes(words.read<int32_t>(), rows, columns, bits);
    std::ranges::copy(unpacked, codes);
    result.column_group = groups_of_inputs(part("weight_g_idx"), columns, layout.group, groups);
  } else {
    const PackedPart plain = part(layout.weight);
    plain.check("I8", {rows, columns});
    std::memcpy(codes, plain.view->data.data(), plain.view->data.size());
    check_range(plain, bits);
    if (layout.group == columns) result.group = 0;
  }
  // Scales and zero points.
  std::ranges::copy(part(layout.scale).floats({rows, groups}),
                    result.scale.mutable_data_ptr<float>());
  if (layout.symmetric) return result;
  const PackedPart zero = part(layout.zero);
  int8_t* const zeros = result.zero.mutable_data_ptr<int8_t>();
  if (!packed || !layout.packed_zeros) {
    zero.check("I8", {rows, groups});
    check_range(zero, bits);
    std::memcpy(zeros, zero.view->data.data(), zero.view->data.size());
    return result;
  }
  // Packed along the rows: every column of groups is a row of words.
  zero.check("I32", {packed_words(rows, bits), groups});
  const std::vector<int32_t> stored = zero.read<int32_t>();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t code = code_at(stored, r / per_word * groups + g, r % per_word, bits);
      zeros[r * groups + g] = static_cast<int8_t>(code - (1 << (bits - 1)));
    }
  }
  return result;
}

// GPTQ and AWQ, whose shapes differ in the codes alone.
PackedCodes codes_of_gptq(const PackedLayout& layout, int64_t rows, int64_t columns, int64_t groups,
                          const std::function<PackedPart(const std::string&)>& part,
                          const std::string& where) {
  const int64_t bits = layout.bits, per_word = 32 / bits, middle = int64_t{1} << (bits - 1);
  const bool awq = layout.kind == PackedKind::awq;
  if (rows % per_word != 0 || (!awq && columns % per_word != 0)) {
    fail(ErrorCode::damaged, "{}: {} codes in an int32 do not divide [{}, {}]", where, per_word,
         rows, columns);
  }
  const PackedPart packed = part("qweight"), zero = part("qzeros");
  awq ? packed.check("I32", {columns, rows / per_word})
      : packed.check("I32", {columns / per_word, rows});
  zero.check("I32", {groups, rows / per_word});
  const std::vector<int32_t> words = packed.read<int32_t>(), stored = zero.read<int32_t>();
  const std::vector<float> scales = part("scales").floats({groups, rows});
  PackedCodes result = empty_codes(layout, rows, columns, groups);
  if (!awq) result.column_group = groups_of_inputs(part("g_idx"), columns, layout.group, groups);
  // The place in an int32 of each of its columns.
  std::array<int64_t, 16> place{};
  for (int64_t p = 0; p < per_word; ++p) {
    place[static_cast<size_t>(awq ? kAwqOutputs[static_cast<size_t>(p)] : p)] = p;
  }
  int8_t* const codes = result.codes.mutable_data_ptr<int8_t>();
  int8_t* const zeros = result.zero.mutable_data_ptr<int8_t>();
  float* const scale = result.scale.mutable_data_ptr<float>();
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t word = r / per_word, at = place[static_cast<size_t>(r % per_word)];
    for (int64_t g = 0; g < groups; ++g) {
      int64_t z = code_at(stored, g * (rows / per_word) + word, at, bits);
      if (layout.zeros_less_one && ++z == 2 * middle) {
        fail(ErrorCode::unsupported,
             "{}: qzeros has a zero point of 0 in version 1, which programs read differently; "
             "convert it to checkpoint_format gptq_v2",
             where);
      }
      zeros[r * groups + g] = static_cast<int8_t>(z - middle);
      scale[r * groups + g] = scales[static_cast<size_t>(g * rows + r)];
    }
    for (int64_t i = 0; i < columns; ++i) {
      const int64_t q = awq ? code_at(words, i * (rows / per_word) + word, at, bits)
                            : code_at(words, i / per_word * rows + r, i % per_word, bits);
      codes[r * columns + i] = static_cast<int8_t>(q - middle);
    }
  }
  return result;
}

at::Tensor numbers_of(const PackedCodes& packed) {
  const int64_t rows = packed.codes.size(0), columns = packed.codes.size(1);
  const int64_t groups = packed.scale.size(1);
  const int64_t group = packed.group > 0 ? packed.group : columns;
  at::Tensor weight = at::empty({rows, columns}, at::kFloat);
  float* const out = weight.mutable_data_ptr<float>();
  const int8_t* const codes = packed.codes.const_data_ptr<int8_t>();
  const int8_t* const zeros = packed.zero.const_data_ptr<int8_t>();
  const float* const scales = packed.scale.const_data_ptr<float>();
  const int32_t* const index =
      packed.column_group.defined() ? packed.column_group.const_data_ptr<int32_t>() : nullptr;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < columns; ++i) {
      const int64_t at = r * groups + (index != nullptr ? index[i] : i / group);
      out[r * columns + i] = scales[at] * static_cast<float>(codes[r * columns + i] - zeros[at]);
    }
  }
  return weight;
}

// Error(damaged) for a number that a scale makes too large.
void check_numbers(const at::Tensor& weight, const std::string& where) {
  const float* const values = weight.const_data_ptr<float>();
  for (int64_t i = 0; i < weight.numel(); ++i) {
    if (std::isfinite(values[i])) continue;
    fail(ErrorCode::damaged, "{}: its scales make {} of element {}, expected finite weights", where,
         values[i], i);
  }
}

}  // namespace

std::optional<PackedCodes> unpack_codes_of(const PackedLayout& layout, int64_t rows,
                                           int64_t columns, const FindPart& find,
                                           const std::string& where) {
  const auto part = [&](const std::string& ending) {
    return PackedPart{find(ending), ending, where};
  };
  const bool integers = layout.kind == PackedKind::gptq || layout.kind == PackedKind::awq ||
                        layout.kind == PackedKind::packed_integers ||
                        (layout.kind == PackedKind::integers && layout.block_rows == 1);
  if (!integers) return std::nullopt;
  const int64_t group = layout.group > 0 ? layout.group : columns;
  if (columns % group != 0) {
    fail(ErrorCode::damaged, "{}: groups of {} do not divide the {} inputs", where, group, columns);
  }
  if (layout.kind == PackedKind::gptq || layout.kind == PackedKind::awq) {
    return codes_of_gptq(layout, rows, columns, columns / group, part, where);
  }
  return codes_of_compressed(layout, rows, columns, columns / group, part);
}

at::Tensor unpack_weight(const PackedLayout& layout, int64_t rows, int64_t columns,
                         const FindPart& find, const std::string& where) {
  const auto codes = unpack_codes_of(layout, rows, columns, find, where);
  at::Tensor weight =
      codes ? numbers_of(*codes) : unpack_floats(layout, rows, columns, find, where);
  check_numbers(weight, where);
  return weight;
}

}  // namespace osp
