// Quantizes the tensors of a file, or runs a model dir with fake quantization, for
// tests/python/test_quant.py.
//
//   quant_probe INPUT.safetensors OUTPUT.safetensors
//     Every F32 tensor of INPUT is treated as its name says; what follows the third (fourth) point
//     is free: symmetric.BITS.search|plain, asymmetric.BITS.GROUP.zero|free, hadamard,
//     float.KIND.matrix (scales of a weight) or float.KIND.rows (of every row). OUTPUT: NAME/codes,
//     NAME/scale, NAME/zero, NAME/global, NAME/values.
//   quant_probe --weights INPUT.safetensors OUTPUT.safetensors
//     Tensors come as NAME/weight F32 [out, in] and, for GPTQ, NAME/hessian F32 [in, in]; NAME is
//     rtn|gptq.BITS.GROUP.symmetric|asymmetric.fp32|fp16.plain|ordered.ANYTHING, BITS a number or
//     mxfp4, nvfp4, fp8 (what follows it but for plain|ordered is not looked at). OUTPUT:
//     NAME/codes, NAME/scale, NAME/zero (asymmetric), NAME/values.
//   quant_probe --model DIR BITS INPUT.safetensors OUTPUT.safetensors
//     INPUT: tokens I64 [B,T]. OUTPUT: logits [B,T,V].
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "osp/base/error.h"
#include "osp/formats/safetensors.h"
#include "osp/model/model_dir.h"
#include "osp/model/transformer.h"
#include "osp/ops/hadamard.h"
#include "osp/ptq/gptq.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/float_grid.h"
#include "osp/quant/grid.h"
#include "osp/quant/weight_quantizer.h"

namespace {

using Tensors = std::map<std::string, at::Tensor>;

at::Tensor to_tensor(const osp::TensorView& view) {
  const at::ScalarType type = view.dtype == "I64" ? at::kLong : at::kFloat;
  at::Tensor tensor = at::empty(view.shape, at::TensorOptions().dtype(type));
  OSP_CHECK(tensor.nbytes() == view.data.size(), "a tensor of type {}", view.dtype);
  std::memcpy(tensor.mutable_data_ptr(), view.data.data(), view.data.size());
  return tensor;
}

void write(const std::string& path, Tensors tensors) {
  std::vector<osp::TensorEntry> entries;
  for (auto& [name, tensor] : tensors) {
    tensor = tensor.contiguous();
    entries.push_back({name,
                       "F32",
                       tensor.sizes().vec(),
                       {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}});
  }
  osp::write_safetensors(path, entries);
}

std::vector<std::string> parts_of(const std::string& name) {
  std::vector<std::string> parts;
  std::istringstream stream(name);
  for (std::string part; std::getline(stream, part, '.');) parts.push_back(part);
  return parts;
}

void quantize(const std::string& name, const at::Tensor& x, Tensors& out) {
  const std::vector<std::string> parts = parts_of(name);
  if (parts[0] == "hadamard") {
    out[name + "/values"] = osp::hadamard_transform(x);
  } else if (parts[0] == "float") {
    const osp::NumberKind kind = osp::parse_bits(parts.at(1) + "-16-16").weights.kind;
    if (parts.at(2) == "rows") {
      out[name + "/values"] = osp::fake_quantize_float(x, kind);
      return;
    }
    const osp::FloatScales scales = osp::float_scales(x, kind);
    const at::Tensor c = osp::float_values(x, kind, scales.effective());
    out[name + "/codes"] = osp::codes_of_values(c, kind).view(at::kByte).to(at::kFloat);
    out[name + "/scale"] = scales.scale;
    if (scales.global.defined()) out[name + "/global"] = scales.global;
    out[name + "/values"] = c.view({x.size(0), scales.scale.size(1), -1})
                                .mul(scales.effective().unsqueeze(-1))
                                .view(x.sizes());
  } else if (parts[0] == "symmetric") {
    const auto q = osp::quantize_symmetric(x, std::stoll(parts.at(1)), parts.at(2) == "search");
    out[name + "/codes"] = q.codes;
    out[name + "/scale"] = q.scale;
    out[name + "/values"] = q.dequantized();
  } else {
    OSP_CHECK(parts[0] == "asymmetric", "unknown request {}", name);
    const auto range =
        parts.at(3) == "free" ? osp::GroupRange::free : osp::GroupRange::contains_zero;
    const auto q =
        osp::quantize_asymmetric(x, std::stoll(parts.at(1)), std::stoll(parts.at(2)), range);
    out[name + "/codes"] = q.codes;
    out[name + "/scale"] = q.scale;
    out[name + "/zero"] = q.zero;
    out[name + "/values"] = q.dequantized();
  }
}

// The integers of one weight, by the request in its name.
void quantize_weight(const std::string& name, const osp::SafetensorsFile& input, Tensors& out) {
  const std::vector<std::string> parts = parts_of(name);
  osp::WeightGrid grid;
  const osp::NumberFormat format = osp::parse_bits(parts.at(1) + "-16-16").weights;
  if (format.is_float()) {
    grid = osp::float_weight_grid(format.kind);
  } else {
    grid.bits = format.bits;
    grid.group = std::stoll(parts.at(2));
    grid.symmetric = parts.at(3) == "symmetric";
    grid.fp16_scales = parts.at(4) == "fp16";
  }
  const at::Tensor weight = to_tensor(input.at(name + "/weight"));
  osp::QuantizedLinear q;
  if (parts.at(0) == "gptq") {
    osp::GptqOptions options;
    options.act_order = parts.at(5) == "ordered";
    q = osp::gptq(weight, to_tensor(input.at(name + "/hessian")), {}, grid, options, name)
            .quantized;
  } else {
    q = osp::round_to_nearest(weight, grid, name);
  }
  out[name + "/codes"] = (q.is_integer() ? q.codes : q.codes.view(at::kByte)).to(at::kFloat);
  out[name + "/scale"] = q.scale;
  if (q.global.defined()) out[name + "/global"] = q.global;
  if (!q.symmetric()) out[name + "/zero"] = q.zero.to(at::kFloat);
  out[name + "/values"] = q.dequantized();
}

void run(const std::vector<std::string>& arguments) {
  Tensors out;
  if (arguments.at(0) == "--weights") {
    const auto input = osp::SafetensorsFile::open(arguments.at(1));
    for (const auto& [key, view] : input.tensors()) {
      const size_t slash = key.find("/weight");
      if (slash != std::string::npos) quantize_weight(key.substr(0, slash), input, out);
    }
    write(arguments.at(2), out);
    return;
  }
  if (arguments.at(0) == "--model") {
    const osp::ParameterStore store = osp::load_model_dir(arguments.at(1));
    osp::FakeQuantTap tap(store, osp::parse_bits(arguments.at(2)));
    const auto input = osp::SafetensorsFile::open(arguments.at(3));
    osp::ForwardOptions options;
    options.tap = &tap;
    out["logits"] = osp::forward_logits(store, to_tensor(input.at("tokens")), options);
    write(arguments.at(4), out);
    return;
  }
  const auto input = osp::SafetensorsFile::open(arguments.at(0));
  for (const auto& [name, view] : input.tensors()) quantize(name, to_tensor(view), out);
  write(arguments.at(1), out);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run({argv + 1, argv + argc});
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 3;
  }
}
