#include "osp/quant/quantized_model_tensors.h"

#include <ATen/ops/empty.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "osp/base/error.h"
#include "osp/formats/compressed_tensors.h"

namespace osp {
namespace {

constexpr int64_t kLargestDimension = int64_t{1} << 24;

at::Tensor packed(const at::Tensor& codes, int64_t bits) {
  const at::Tensor c = codes.contiguous();
  const std::vector<int32_t> words = pack_codes(
      {c.const_data_ptr<int8_t>(), static_cast<size_t>(c.numel())}, c.size(0), c.size(1), bits);
  at::Tensor result = at::empty({c.size(0), packed_words(c.size(1), bits)}, at::kInt);
  std::memcpy(result.mutable_data_ptr(), words.data(), words.size() * sizeof(int32_t));
  return result;
}

at::Tensor unpacked(const at::Tensor& words, int64_t columns, int64_t bits) {
  const std::vector<int8_t> codes =
      unpack_codes({words.const_data_ptr<int32_t>(), static_cast<size_t>(words.numel())},
                   words.size(0), columns, bits);
  at::Tensor result = at::empty({words.size(0), columns}, at::kChar);
  std::memcpy(result.mutable_data_ptr(), codes.data(), codes.size());
  return result;
}

at::ScalarType scalar_type(const std::string& dtype) {
  if (dtype == "I32") return at::kInt;
  if (dtype == "I64") return at::kLong;
  if (dtype == "F16") return at::kHalf;
  if (dtype == "BF16") return at::kBFloat16;
  return at::kFloat;
}

// A tensor of the file with the wanted shape and one of the wanted types.
at::Tensor take(const std::map<std::string, TensorView>& tensors, const std::string& name,
                const std::vector<std::string>& dtypes, const std::vector<int64_t>& shape,
                const std::string& where, std::set<std::string>& taken) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) fail(ErrorCode::damaged, "{}: tensor {} is missing", where, name);
  const TensorView& view = found->second;
  if (std::find(dtypes.begin(), dtypes.end(), view.dtype) == dtypes.end() || view.shape != shape) {
    fail(ErrorCode::damaged, "{}: tensor {} is {} [{}], expected {} [{}]", where, name, view.dtype,
         fmt::join(view.shape, ", "), fmt::join(dtypes, " or "), fmt::join(shape, ", "));
  }
  at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(scalar_type(view.dtype)));
  if (tensor.numel() > 0) {
    std::memcpy(tensor.mutable_data_ptr(), view.data.data(), view.data.size());
  }
  taken.insert(name);
  return tensor;
}

}  // namespace

void TensorBuffers::add(const std::string& name, const std::string& dtype,
                        const at::Tensor& tensor) {
  held.push_back(tensor.contiguous());
  const at::Tensor& t = held.back();
  entries.push_back({name,
                     dtype,
                     t.sizes().vec(),
                     {static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()}});
}

void add_quantized(TensorBuffers& buffers, const std::string& name, const QuantizedLinear& layer) {
  buffers.add(name + "_packed", "I32", packed(layer.codes, layer.bits));
  const at::Tensor half = layer.scale.to(at::kHalf);
  const bool exact = half.to(at::kFloat).equal(layer.scale);
  buffers.add(name + "_scale", exact ? "F16" : "F32", exact ? half : layer.scale);
  at::Tensor shape = at::empty({2}, at::kLong);
  shape[0] = layer.rows();
  shape[1] = layer.columns();
  buffers.add(name + "_shape", "I64", shape);
  if (!layer.symmetric()) {
    buffers.add(name + "_zero_point", "I32", packed(layer.zero.t(), layer.bits).t());
  }
}

QuantizedLinear read_quantized(const std::map<std::string, TensorView>& tensors,
                               const std::string& name, int64_t bits, int64_t group, bool symmetric,
                               const std::string& where, std::set<std::string>& taken) {
  const at::Tensor shape = take(tensors, name + "_shape", {"I64"}, {2}, where, taken);
  const int64_t out = shape[0].item<int64_t>(), in = shape[1].item<int64_t>();
  const bool plausible = out > 0 && in > 0 && out <= kLargestDimension && in <= kLargestDimension;
  if (!plausible || (group > 0 && in % group != 0)) {
    fail(ErrorCode::damaged, "{}: {}_shape is [{}, {}], which groups of {} do not fit", where, name,
         out, in, group);
  }
  const int64_t groups = group == 0 ? 1 : in / group;
  QuantizedLinear layer;
  layer.bits = bits;
  layer.group = group;
  layer.codes = unpacked(
      take(tensors, name + "_packed", {"I32"}, {out, packed_words(in, bits)}, where, taken), in,
      bits);
  layer.scale = take(tensors, name + "_scale", {"F16", "F32", "BF16"}, {out, groups}, where, taken)
                    .to(at::kFloat);
  if (!symmetric) {
    const at::Tensor words = take(tensors, name + "_zero_point", {"I32"},
                                  {packed_words(out, bits), groups}, where, taken);
    layer.zero = unpacked(words.t().contiguous(), out, bits).t().contiguous();
  }
  check_quantized(layer, where + ": " + name);
  return layer;
}

}  // namespace osp
