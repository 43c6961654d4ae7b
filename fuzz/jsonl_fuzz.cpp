// Feeds arbitrary bytes to the JSON lines reader. The result must not depend on how the bytes are
// split into reads, and every line must give a text, nothing, or an Error.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fuzz/accepted.h"
#include "fuzz/json_mutator.h"
#include "osp/base/error.h"
#include "osp/data/text_reader_jsonl.h"

namespace {

using Lines = std::vector<std::pair<std::string, uint64_t>>;

Lines lines_of(std::string_view text, size_t piece_bytes) {
  Lines lines;
  osp::LineSplitter splitter(
      [&](std::string_view line, uint64_t number) { lines.emplace_back(line, number); }, "input");
  for (; !text.empty(); text.remove_prefix(std::min(piece_bytes, text.size()))) {
    splitter.feed(text.substr(0, piece_bytes));
  }
  splitter.finish();
  return lines;
}

constexpr const char* kKeys[] = {"text", "content", "meta"};

// A node of a line, which mostly keeps a text; in every fourth input some bytes as well.
std::string mutated(std::string_view text, osp::fuzz::Dice& dice) {
  std::string result = osp::fuzz::mutated_json(text, dice, kKeys, [&](osp::fuzz::Tree& line) {
    const bool has = line.is_object() && line.contains("text") && line["text"].is_string();
    if (line.is_object() && !has && !dice.one_in(4)) line["text"] = osp::fuzz::some_text(dice);
  });
  return dice.one_in(4) ? osp::fuzz::changed_bytes(std::move(result), dice) : result;
}

}  // namespace

OSP_MUTATOR(mutated)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Lines lines = lines_of(text, size + 1);
  OSP_CHECK(lines == lines_of(text, 3), "lines depend on how the bytes arrive");
  bool texts = false;
  for (const auto& [line, number] : lines) {
    try {
      osp::json_line_text(line, "text", "x.jsonl", number);
      texts = true;
    } catch (const osp::Error&) {
      continue;
    }
  }
  if (texts) osp::fuzz::accepted(data, size);
  return 0;
}
