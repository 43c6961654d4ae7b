// Feeds two arbitrary files to the reader of models in parts: two bytes for the length of
// the first, then both. A model that is accepted has the tensors of both, and paths that
// are found again.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "osp/base/error.h"
#include "osp/formats/gguf_split.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data + 2), size - 2);
  const size_t first = std::min<size_t>(data[0] | size_t{data[1]} << 8, bytes.size());
  try {
    std::vector<osp::GgufContents> parts;
    parts.push_back(osp::parse_gguf(bytes.first(first), "first"));
    parts.push_back(osp::parse_gguf(bytes.subspan(first), "second"));
    const size_t total = parts[0].tensors.size() + parts[1].tensors.size();
    const int64_t count = osp::gguf_split_count(parts[0].metadata);
    const osp::GgufContents joined = osp::join_gguf_parts(std::move(parts));
    OSP_CHECK(count == 2 && joined.tensors.size() == total, "{} tensors", joined.tensors.size());
    const std::string path = osp::gguf_part_path("m.gguf", 2, count);
    OSP_CHECK(osp::gguf_part_paths(path, count).back() == path, "{}", path);
  } catch (const osp::Error&) {
  }
  return 0;
}
