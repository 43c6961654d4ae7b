// Feeds arbitrary folders of other programs to the reader of GPTQ, AWQ and compressed-tensors
// weights: two bytes for the size of a layer, a config.json up to a NUL byte, then a safetensors
// file whose tensors are called as the parts of the layer. Weights that are accepted have that size
// and are finite.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/formats/safetensors.h"
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
    const auto layout = osp::packed_layout(osp::parse_json(config, "config.json"), "config.json");
    if (!layout) return 0;
    std::map<std::string, osp::TensorView> tensors;
    std::map<std::string, std::string> metadata;
    osp::parse_safetensors(bytes, "input", tensors, metadata);
    const auto find = [&](const std::string& ending) -> const osp::TensorView* {
      const auto found = tensors.find(ending);
      return found == tensors.end() ? nullptr : &found->second;
    };
    const at::Tensor weight = osp::unpack_weight(*layout, rows, columns, find, "input");
    OSP_CHECK(weight.dim() == 2 && weight.size(0) == rows && weight.size(1) == columns, "shape");
  } catch (const osp::Error&) {
  }
  return 0;
}
