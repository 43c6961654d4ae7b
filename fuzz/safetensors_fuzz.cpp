// Feeds arbitrary bytes to the safetensors reader. An accepted file must have views inside the
// data, sizes that match shape and dtype, and no byte that belongs to no tensor.
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "fuzz/accepted.h"
#include "fuzz/safetensors_mutator.h"
#include "osp/base/error.h"
#include "osp/formats/safetensors.h"

OSP_MUTATOR(osp::fuzz::mutated_safetensors)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  std::map<std::string, osp::TensorView> tensors;
  std::map<std::string, std::string> metadata;
  try {
    osp::parse_safetensors(bytes, "input", tensors, metadata);
  } catch (const osp::Error&) {
    return 0;
  }
  osp::fuzz::accepted(data, size);
  size_t covered = 0;
  for (const auto& [name, tensor] : tensors) {
    OSP_CHECK(osp::safetensors_dtype_bits(tensor.dtype) > 0, "dtype {}", tensor.dtype);
    OSP_CHECK(tensor.data.data() >= bytes.data() &&
                  tensor.data.data() + tensor.data.size() <= bytes.data() + size,
              "tensor {} lies outside the file", name);
    covered += tensor.data.size();
  }
  OSP_CHECK(covered <= size, "{} bytes in {}", covered, size);
  return 0;
}
