// Feeds arbitrary JSON lines to the reader of `osp score`'s requests, with and without a tokenizer.
// Each line is taken or an Error; nothing is computed.
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "fuzz/accepted.h"
#include "fuzz/byte_level.h"
#include "fuzz/json_mutator.h"
#include "osp/base/error.h"
#include "osp/cli/score_requests.cpp"  // the command line is no library

namespace {

constexpr const char* kKeys[] = {"context", "continuation", "text", "max_tokens", "until", "id"};

}  // namespace

OSP_JSON_MUTATOR(kKeys)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const osp::ParameterStore store = [] {
    osp::ParameterStore made;
    made.config.context = 16;
    return made;
  }();
  static const osp::ScoreModel models[] = {{store, osp::fuzz::byte_level()}, {store, std::nullopt}};
  const std::string text(reinterpret_cast<const char*>(data), size);
  for (const osp::ScoreModel& model : models) {
    osp::RequestBatch batch("stdin");
    int64_t number = 0;
    for (size_t first = 0; first <= text.size();) {
      const size_t end = std::min(text.find('\n', first), text.size());
      const int64_t before = batch.size();
      try {
        batch.add(text.substr(first, end - first), ++number, model);
        OSP_CHECK(batch.size() == before + 1, "{} lines after {}", batch.size(), before);
      } catch (const osp::Error&) {
        OSP_CHECK(batch.size() == before, "a line that was refused is in the batch");
      }
      first = end + 1;
    }
    if (batch.size() > 0 && model.tokenizer) osp::fuzz::accepted(data, size);
  }
  return 0;
}
