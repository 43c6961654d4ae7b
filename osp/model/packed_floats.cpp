#include "osp/model/packed_floats.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Float8_e4m3fn.h>

#include <array>
#include <bit>

#include "osp/formats/e2m1.h"

namespace osp {
namespace {

// E4M3's numbers by their byte; 127 and 255 are NaN.
std::array<float, 256> e4m3_numbers() {
  std::array<float, 256> numbers{};
  for (size_t byte = 0; byte < numbers.size(); ++byte) {
    numbers[byte] = static_cast<float>(
        c10::Float8_e4m3fn(static_cast<uint8_t>(byte), c10::Float8_e4m3fn::from_bits()));
  }
  return numbers;
}

std::vector<float> e4m3_of(const PackedPart& part, const char* what) {
  static const std::array<float, 256> kNumbers = e4m3_numbers();
  std::vector<float> values;
  values.reserve(part.view->data.size());
  for (const std::byte byte : part.view->data) {
    values.push_back(kNumbers[static_cast<size_t>(byte)]);
    if (!std::isfinite(values.back())) {
      fail(ErrorCode::damaged, "{}: {} holds NaN at element {}, expected finite {}", part.where,
           part.name, values.size() - 1, what);
    }
  }
  return values;
}

// FP8 and int8, with one scale for a tensor, a row, a group or a block.
at::Tensor numbers_by_block(const PackedLayout& layout, int64_t rows, int64_t columns,
                            const std::function<PackedPart(const std::string&)>& part) {
  const int64_t block_rows = layout.block_rows > 0 ? layout.block_rows : rows;
  const int64_t block_columns = layout.group > 0 ? layout.group : columns;
  const auto pieces = [](int64_t size, int64_t block) { return (size + block - 1) / block; };
  const int64_t across = pieces(columns, block_columns);
  const PackedPart weight = part(layout.weight);
  // Groups of a row fill it; the last block of a tile may be smaller.
  if (layout.block_rows == 1 && columns % block_columns != 0) {
    fail(ErrorCode::damaged, "{}: groups of {} do not divide the {} inputs", weight.where,
         block_columns, columns);
  }
  const bool is_float = layout.kind == PackedKind::fp8;
  weight.check(is_float ? "F8_E4M3" : "I8", {rows, columns});
  const std::vector<int64_t> shape = {pieces(rows, block_rows), across};
  const std::vector<float> scales = part(layout.scale).floats(shape);
  std::vector<int8_t> zeros(scales.size(), 0);
  if (!layout.symmetric) {
    const PackedPart zero = part(layout.zero);
    zero.check_there();
    zero.check("I8", zero.view->data.size() == zeros.size() ? zero.view->shape : shape);
    zeros = zero.read<int8_t>();
  }
  std::vector<float> codes;
  if (is_float) {
    codes = e4m3_of(weight, "weights");
  } else {
    for (const int8_t code : weight.read<int8_t>()) codes.push_back(code);
  }
  at::Tensor numbers = at::empty({rows, columns}, at::kFloat);
  float* const out = numbers.mutable_data_ptr<float>();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < columns; ++i) {
      const auto at = static_cast<size_t>(r / block_rows * across + i / block_columns);
      out[r * columns + i] = scales[at] * (codes[static_cast<size_t>(r * columns + i)] -
                                           static_cast<float>(zeros[at]));
    }
  }
  return numbers;
}

// The scales of MXFP4's blocks, or those of NVFP4's divided by the global one.
std::vector<float> scales_of_blocks(bool nvfp4, int64_t rows, int64_t blocks,
                                    const std::function<PackedPart(const std::string&)>& part) {
  const PackedPart stored = part("weight_scale");
  if (!nvfp4) {
    stored.check("U8", {rows, blocks});
    std::vector<float> scales;
    for (const uint8_t exponent : stored.read<uint8_t>()) {
      if (exponent == 255) {
        fail(ErrorCode::damaged, "{}: {} holds 255, the NaN of E8M0, at element {}", stored.where,
             stored.name, scales.size());
      }
      scales.push_back(std::ldexp(1.0f, exponent - 127));
    }
    return scales;
  }
  stored.check("F8_E4M3", {rows, blocks});
  std::vector<float> scales = e4m3_of(stored, "scales");
  const PackedPart global_part = part("weight_global_scale");
  const float global = global_part.floats({1, 1}).front();
  if (!(global > 0.0f)) {
    fail(ErrorCode::damaged, "{}: {} is {}, expected a positive number", global_part.where,
         global_part.name, global);
  }
  for (float& scale : scales) scale /= global;
  return scales;
}

at::Tensor numbers_of_nibbles(bool nvfp4, int64_t rows, int64_t columns, const std::string& where,
                              const std::function<PackedPart(const std::string&)>& part) {
  const int64_t block = nvfp4 ? 16 : 32;
  if (columns % block != 0) {
    fail(ErrorCode::damaged, "{}: blocks of {} do not divide the {} inputs", where, block, columns);
  }
  const int64_t blocks = columns / block;
  const PackedPart packed = part("weight_packed");
  packed.check("U8", {rows, columns / 2});
  const std::vector<uint8_t> bytes = packed.read<uint8_t>();
  const std::vector<float> scales = scales_of_blocks(nvfp4, rows, blocks, part);
  at::Tensor numbers = at::empty({rows, columns}, at::kFloat);
  float* const out = numbers.mutable_data_ptr<float>();
  for (int64_t i = 0; i < rows * columns; ++i) {
    const uint8_t code = bytes[static_cast<size_t>(i / 2)] >> (i % 2 * 4) & 15;
    const float value = code < 8 ? kE2m1[code] : -kE2m1[code - 8u];
    out[i] = value * scales[static_cast<size_t>(i / block)];
  }
  return nvfp4 ? numbers.to(at::kBFloat16).to(at::kFloat) : numbers;
}

}  // namespace

at::Tensor unpack_floats(const PackedLayout& layout, int64_t rows, int64_t columns,
                         const FindPart& find, const std::string& where) {
  const auto part = [&](const std::string& ending) {
    return PackedPart{find(ending), ending, where};
  };
  switch (layout.kind) {
    case PackedKind::fp8:
    case PackedKind::integers:
      return numbers_by_block(layout, rows, columns, part);
    case PackedKind::mxfp4:
    case PackedKind::nvfp4:
      return numbers_of_nibbles(layout.kind == PackedKind::nvfp4, rows, columns, where, part);
    default:
      fail(ErrorCode::unsupported, "{}: the layout is one of experts, which stand in one tensor",
           where);
  }
}

}  // namespace osp
