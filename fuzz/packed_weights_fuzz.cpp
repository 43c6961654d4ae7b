// Feeds arbitrary folders of other programs to the reader of GPTQ, AWQ, compressed-tensors and
// torchao weights: two bytes for the size of a layer, a config.json up to a NUL byte, then a
// safetensors file whose tensors are called as the parts of the layer, and whose metadata describe
// the layer "weight" if config.json does not. Weights that are accepted have that size, and those
// of codes are what the codes stand for. Of gpt-oss the layer is that of up to four experts, by the
// upper half of the first byte.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/formats/safetensors.h"
#include "osp/model/packed_experts.h"
#include "osp/model/packed_torchao.h"
#include "osp/model/packed_weights.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const int64_t rows = int64_t{data[0] % 16 + 1} * 8, columns = int64_t{data[1] % 16 + 1} * 8;
  const uint8_t* const text = data + 2;
  const uint8_t* const end = std::find(text, data + size, uint8_t{0});
  if (end == data + size) return 0;
  const std::string config(reinterpret_cast<const char*>(text), static_cast<size_t>(end - text));
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(end + 1),
                                         static_cast<size_t>(data + size - end - 1));
  try {
    auto layout = osp::packed_layout(osp::parse_json(config, "config.json"), "config.json");
    std::map<std::string, osp::TensorView> tensors;
    std::map<std::string, std::string> metadata;
    osp::parse_safetensors(bytes, "input", tensors, metadata);
    if (!layout) layout = osp::torchao_layout(metadata, "weight", "input");
    if (!layout) return 0;
    const auto find = [&](const std::string& ending) -> const osp::TensorView* {
      const auto found = tensors.find(ending);
      return found == tensors.end() ? nullptr : &found->second;
    };
    if (layout->kind == osp::PackedKind::mxfp4_experts) {
      const int64_t experts = data[0] / 16 % 4 + 1;
      const at::Tensor weight = osp::unpack_mxfp4_experts({experts, columns, rows}, find, "input");
      OSP_CHECK(weight.sizes() == at::IntArrayRef({experts, columns, rows}), "shape");
      OSP_CHECK(weight.isfinite().all().item<bool>(), "numbers that are not finite");
      return 0;
    }
    const at::Tensor weight = osp::unpack_weight(*layout, rows, columns, find, "input");
    OSP_CHECK(weight.dim() == 2 && weight.size(0) == rows && weight.size(1) == columns, "shape");
    const auto codes = osp::unpack_codes_of(*layout, rows, columns, find, "input");
    if (!codes || codes->column_group.defined()) return 0;
    const int64_t group = codes->group > 0 ? codes->group : columns;
    const at::Tensor spread = codes->zero.to(at::kFloat).repeat_interleave(group, 1);
    const at::Tensor scale = codes->scale.repeat_interleave(group, 1);
    const at::Tensor numbers = codes->codes.to(at::kFloat).sub(spread).mul(scale);
    OSP_CHECK(numbers.equal(weight), "codes stand for other numbers");
  } catch (const osp::Error&) {
  }
  return 0;
}
