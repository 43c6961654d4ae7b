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
#include <string_view>

#include "fuzz/accepted.h"
#include "fuzz/safetensors_mutator.h"
#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/formats/safetensors.h"
#include "osp/model/packed_experts.h"
#include "osp/model/packed_torchao.h"
#include "osp/model/packed_weights.h"

namespace {

constexpr const char* kKeys[] = {"quantization_config",
                                 "quant_method",
                                 "bits",
                                 "group_size",
                                 "desc_act",
                                 "sym",
                                 "checkpoint_format",
                                 "version",
                                 "zero_point",
                                 "modules_to_not_convert",
                                 "format",
                                 "config_groups",
                                 "weights",
                                 "num_bits",
                                 "type",
                                 "symmetric",
                                 "strategy",
                                 "group",
                                 "channel",
                                 "tensor",
                                 "block",
                                 "block_structure",
                                 "actorder",
                                 "input_activations",
                                 "gptq",
                                 "gptq_v2",
                                 "awq",
                                 "gemm",
                                 "mxfp4",
                                 "compressed-tensors",
                                 "pack-quantized",
                                 "int-quantized",
                                 "float-quantized",
                                 "naive-quantized",
                                 "nvfp4-pack-quantized",
                                 "mxfp4-pack-quantized",
                                 "int",
                                 "float"};

// Changes the size of the layer, config.json or the tensors.
std::string mutated(std::string_view input, osp::fuzz::Dice& dice) {
  const size_t end = input.find('\0', 2);
  if (input.size() < 2 || end == std::string_view::npos) return "";
  std::string size(input.substr(0, 2)), config(input.substr(2, end - 2));
  std::string tensors(input.substr(end + 1));
  const size_t choice = dice.below(8);
  if (choice == 0) {
    size[dice.below(2)] = static_cast<char>(dice.below(256));
  } else if (choice <= 2) {
    tensors.replace(tensors.size() / 2, std::string::npos,
                    osp::fuzz::changed_bytes(tensors.substr(tensors.size() / 2), dice));
    tensors.resize(input.size() - end - 1, '\x3c');
  } else if (choice <= 4) {
    config = osp::fuzz::mutated_json(config, dice, kKeys);
  } else {
    tensors = osp::fuzz::mutated_safetensors(tensors, dice);
  }
  return config.empty() || tensors.empty() ? "" : size + config + '\0' + tensors;
}

}  // namespace

OSP_MUTATOR(mutated)

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
      osp::fuzz::accepted(data, size);
      OSP_CHECK(weight.sizes() == at::IntArrayRef({experts, columns, rows}), "shape");
      OSP_CHECK(weight.isfinite().all().item<bool>(), "numbers that are not finite");
      return 0;
    }
    const at::Tensor weight = osp::unpack_weight(*layout, rows, columns, find, "input");
    osp::fuzz::accepted(data, size);
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
