// Feeds arbitrary numbers to the writers of GGUF blocks: what comes back is finite, and no farther
// away than the largest magnitude of the block (zeros are always at hand).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fuzz/accepted.h"
#include "osp/base/error.h"
#include "osp/formats/gguf_quantize.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kBlock = 256;
  const size_t count = size / sizeof(float) / kBlock * kBlock;
  if (count == 0) return 0;
  osp::fuzz::accepted(data, size);
  std::vector<float> values(count);
  std::memcpy(values.data(), data, count * sizeof(float));
  for (float& value : values) {  // what callers have checked
    if (!std::isfinite(value) || std::fabs(value) > 65519.0f) value = 0;
  }
  for (const char* name :
       {"fp32", "bf16", "f16", "q8_0", "q5_0", "q5_1", "q4_0", "q4_1", "q6_k", "q4_k"}) {
    const osp::GgufTensorType type = *osp::gguf_written_type(name);
    const osp::GgufTypeInfo& info = osp::gguf_type_info(type);
    std::vector<std::byte> blocks(count / info.block_size * info.block_bytes);
    osp::gguf_quantize(type, values, blocks);
    std::vector<float> back(count);
    osp::gguf_dequantize(type, blocks, back);
    for (size_t begin = 0; begin < count; begin += kBlock) {
      float largest = 0;
      for (size_t i = begin; i < begin + kBlock; ++i) {
        largest = std::max(largest, std::fabs(values[i]));
      }
      for (size_t i = begin; i < begin + kBlock; ++i) {
        OSP_CHECK(std::isfinite(back[i]), "{} gives {} of {}", name, back[i], values[i]);
        OSP_CHECK(std::fabs(back[i] - values[i]) <= 1.01f * largest + 1e-5f, "{} gives {} of {}",
                  name, back[i], values[i]);
      }
    }
  }
  return 0;
}
