// Feeds arbitrary bytes to the reader of .bin token files. An accepted file must have exactly the
// number of tokens in its header.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "fuzz/mutator.h"
#include "osp/base/error.h"
#include "osp/data/shards_bin.h"

namespace {

// Changes header or tokens, and mostly lets the header say how many tokens there are.
std::string mutated(std::string_view file, osp::fuzz::Dice& dice) {
  const size_t head = std::min(file.size(), size_t{osp::kBinHeaderBytes});
  std::string header(file.substr(0, head)), tokens(file.substr(head));
  std::string& changed = dice.one_in(4) ? header : tokens;
  changed = osp::fuzz::changed_bytes(std::move(changed), dice);
  if (!dice.one_in(8)) {
    header.resize(osp::kBinHeaderBytes);
    tokens.resize(tokens.size() / 2 * 2);
    const auto count = static_cast<uint32_t>(tokens.size() / 2);
    std::memcpy(header.data() + 8, &count, sizeof(count));
  }
  return header + tokens;
}

}  // namespace

OSP_MUTATOR(mutated)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  uint64_t num_tokens = 0;
  try {
    num_tokens = osp::parse_bin_shard({reinterpret_cast<const std::byte*>(data), size}, "x.bin");
  } catch (const osp::Error&) {
    return 0;
  }
  osp::fuzz::accepted(data, size);
  OSP_CHECK(size == osp::kBinHeaderBytes + 2 * num_tokens, "{} tokens in {} bytes", num_tokens,
            size);
  return 0;
}
