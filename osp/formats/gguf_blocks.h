// The tensor types of GGUF files: how many bytes a block takes, and blocks as fp32 values.
//
// A tensor's row (its fastest dimension) is cut into blocks of `block_size` values. F32, F16 and
// BF16 have blocks of one value. Q4_0 … Q8_0 have 32 values with one or two fp16 scales; the K
// types, IQ4_XS, TQ1_0 and TQ2_0 have 256 values, in parts of 16 or 32 whose scales are integers
// times an fp16 scale (TQ: one scale). IQ4 types look their values up in a table. MXFP4 has 32
// values of the Open Compute Project's microscaling formats, E2M1 under a power of two.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace osp {

// As in the file, field "type" of a tensor.
enum class GgufTensorType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  iq4_xs = 23,
  bf16 = 30,
  tq1_0 = 34,
  tq2_0 = 35,
  mxfp4 = 39,
};

struct GgufTypeInfo {
  GgufTensorType type;
  std::string_view name;  // "Q4_K"
  uint32_t block_size;    // values
  uint32_t block_bytes;
};

// Nullptr for a type that osp does not read.
const GgufTypeInfo* gguf_type_info(uint32_t type);
const GgufTypeInfo& gguf_type_info(GgufTensorType type);
// gguf_type_info() for `values` values in `bytes` bytes; a caller's mistake if these are
// not whole blocks.
const GgufTypeInfo& gguf_type_of_blocks(GgufTensorType type, size_t values, size_t bytes);
// The name of a type that the format knows, read by osp or not; "" for a number without meaning.
std::string_view gguf_type_name(uint32_t type);
// "F32, F16, Q4_0, …": the types that osp reads.
std::string gguf_types_read();

// values[i] of whole blocks, in fp32 and in the order of operations of the reference
// implementation, so that every bit agrees with it:
//   Q4_0, Q5_0, Q8_0: d q;   Q4_1, Q5_1: d q + m;
//   Q2_K, Q4_K, Q5_K: (d s) q − (dmin m);   Q3_K, Q6_K, IQ4_XS: (d s) q;   IQ4_NL, TQ, MXFP4: d q.
// Error(damaged) for an MXFP4 scale of 255, which is no number.
// `blocks` has values.size() / block_size · block_bytes bytes, at any address.
void gguf_dequantize(GgufTensorType type, std::span<const std::byte> blocks,
                     std::span<float> values);

}  // namespace osp
