// Feeds two arbitrary files to the reader of models in parts: two bytes for the length of
// the first, then both. A model that is accepted has the tensors of both, and paths that
// are found again.
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fuzz/accepted.h"
#include "fuzz/gguf_mutator.h"
#include "osp/base/error.h"
#include "osp/formats/gguf_split.h"

namespace {

using osp::fuzz::Dice;
using osp::fuzz::GgufParts;

void set_number(GgufParts& file, const std::string& key, osp::GgufType type, size_t value) {
  std::erase_if(file.entries, [&](const auto& entry) { return entry.key == key; });
  const char bytes[] = {static_cast<char>(value), static_cast<char>(value >> 8), 0, 0};
  const size_t size = osp::fuzz::gguf_element_bytes(static_cast<uint32_t>(type));
  file.entries.push_back({key, static_cast<uint32_t>(type), false, {std::string(bytes, size)}});
}

// Changes one of the two files, and mostly lets both say which parts of a model they are.
std::string mutated(std::string_view input, Dice& dice) {
  if (input.size() < 2) return "";
  const auto* const head = reinterpret_cast<const uint8_t*>(input.data());
  input.remove_prefix(2);
  const size_t length = std::min<size_t>(head[0] | size_t{head[1]} << 8, input.size());
  GgufParts files[] = {osp::fuzz::GgufPartsReader(input.substr(0, length)).read(),
                       osp::fuzz::GgufPartsReader(input.substr(length)).read()};
  osp::fuzz::GgufMutator mutator(dice);
  mutator.change(dice.one_of(files));
  for (size_t i = 0; i < 2 && !dice.one_in(8); ++i) {
    set_number(files[i], "split.no", osp::GgufType::u16, i);
    set_number(files[i], "split.count", osp::GgufType::u16, 2);
    set_number(files[i], "split.tensors.count", osp::GgufType::i32,
               files[0].tensors.size() + files[1].tensors.size());
  }
  const std::string first = mutator.written(files[0]), second = mutator.written(files[1]);
  if (first.size() > 65535) return "";
  const char sizes[] = {static_cast<char>(first.size()), static_cast<char>(first.size() >> 8)};
  return std::string(sizes, 2) + first + second;
}

}  // namespace

OSP_MUTATOR(mutated)

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
    osp::fuzz::accepted(data, size);
    OSP_CHECK(count == 2 && joined.tensors.size() == total, "{} tensors", joined.tensors.size());
    const std::string path = osp::gguf_part_path("m.gguf", 2, count);
    OSP_CHECK(osp::gguf_part_paths(path, count).back() == path, "{}", path);
  } catch (const osp::Error&) {
  }
  return 0;
}
