// Feeds arbitrary bytes to the reader of .bin token files. An accepted file must have exactly the
// number of tokens in its header.
#include <cstddef>
#include <cstdint>
#include <span>

#include "osp/base/error.h"
#include "osp/data/shards_bin.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint64_t num_tokens = 0;
  try {
    num_tokens = osp::parse_bin_shard({reinterpret_cast<const std::byte*>(data), size}, "x.bin");
  } catch (const osp::Error&) {
    return 0;
  }
  OSP_CHECK(size == osp::kBinHeaderBytes + 2 * num_tokens, "{} tokens in {} bytes", num_tokens,
            size);
  return 0;
}
