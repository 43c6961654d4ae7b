// Feeds arbitrary bytes to the reader of tokenizer.json. An accepted file must encode and decode a
// few texts: an error is allowed, a crash or a read outside the text is not.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "osp/base/error.h"
#include "osp/tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::string_view kTexts[] = {
      "",
      "The  year 1913, it's \xC3\xA9t\xC3\xA9\n\n<s></s> <x>",
      "\xE2\x96\x81\xE6\x97\xA5\xE6\x9C\xAC\xF0\x9F\x98\x80\xCC\x81\xCC\xA3",
      "\xFF\xE2\x96 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
  };
  try {
    const osp::Tokenizer tokenizer =
        osp::Tokenizer::from_json({reinterpret_cast<const char*>(data), size}, "input");
    for (const std::string_view text : kTexts) {
      const std::vector<int32_t> ids = tokenizer.encode(text, {.add_special_tokens = true});
      OSP_CHECK(ids == tokenizer.encode(text, {.add_special_tokens = true}), "ids changed");
      for (const int32_t id : ids) OSP_CHECK(id >= 0, "negative id {}", id);
      tokenizer.decode(ids, true);
      for (const int32_t id : ids) tokenizer.token_text(id);
    }
  } catch (const osp::Error&) {
  }
  return 0;
}
