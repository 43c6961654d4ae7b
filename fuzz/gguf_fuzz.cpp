// Feeds arbitrary bytes to the GGUF reader. An accepted file must have views inside the file,
// tensors that do not overlap, sizes that match shape and type, readable metadata, and blocks that
// can be dequantized.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fuzz/accepted.h"
#include "fuzz/gguf_mutator.h"
#include "osp/base/error.h"
#include "osp/formats/gguf.h"

namespace {

bool inside(std::span<const std::byte> part, std::span<const std::byte> whole) {
  return part.empty() ||
         (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size());
}

void check_metadata(const osp::GgufMetadata& metadata, std::span<const std::byte> bytes) {
  for (const auto& [key, value] : metadata.values()) {
    OSP_CHECK(inside(value.bytes, bytes), "metadata {} lies outside the file", key);
    if (value.type != osp::GgufType::string) continue;
    uint64_t total = 0;
    if (value.is_array) {
      for (const std::string_view text : metadata.texts(key)) total += 8 + text.size();
    } else {
      total = 8 + metadata.text(key).size();
    }
    OSP_CHECK(total == value.bytes.size(), "strings of {}", key);
  }
}

void check_tensor(const osp::GgufTensor& tensor) {
  const osp::GgufTypeInfo& info = osp::gguf_type_info(tensor.type);
  uint64_t count = 1;
  for (const int64_t dimension : tensor.shape) count *= static_cast<uint64_t>(dimension);
  OSP_CHECK(tensor.data.size() == count / info.block_size * info.block_bytes, "size");
  std::vector<float> values(count);
  try {
    osp::gguf_dequantize(tensor.type, tensor.data, values);
  } catch (const osp::Error&) {  // an MXFP4 scale that is no number
    OSP_CHECK(tensor.type == osp::GgufTensorType::mxfp4, "blocks of {}", info.name);
  }
}

}  // namespace

OSP_MUTATOR(osp::fuzz::mutated_gguf)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  osp::GgufContents contents;
  try {
    contents = osp::parse_gguf(bytes, "input");
  } catch (const osp::Error&) {
    return 0;
  }
  osp::fuzz::accepted(data, size);
  check_metadata(contents.metadata, bytes);
  std::vector<std::span<const std::byte>> parts;
  for (const auto& [name, tensor] : contents.tensors) {
    OSP_CHECK(inside(tensor.data, bytes), "tensor {} lies outside the file", name);
    check_tensor(tensor);
    if (!tensor.data.empty()) parts.push_back(tensor.data);
  }
  std::sort(parts.begin(), parts.end(),
            [](const auto& a, const auto& b) { return a.data() < b.data(); });
  for (size_t i = 1; i < parts.size(); ++i) {
    OSP_CHECK(parts[i - 1].data() + parts[i - 1].size() <= parts[i].data(), "tensors overlap");
  }
  return 0;
}
