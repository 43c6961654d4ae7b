// Feeds arbitrary bytes to the strict JSON parser. An accepted value must be unchanged after it is
// written and parsed again.
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "fuzz/accepted.h"
#include "fuzz/json_mutator.h"
#include "osp/base/error.h"
#include "osp/base/json.h"

namespace {

constexpr const char* kKeys[] = {"a", "b", "\\u0000", "\u00e9"};

// A node of the value, and in every second input some bytes of the text as well.
std::string mutated(std::string_view text, osp::fuzz::Dice& dice) {
  std::string result = osp::fuzz::mutated_json(text, dice, kKeys);
  return dice.one_in(2) ? osp::fuzz::changed_bytes(std::move(result), dice) : result;
}

}  // namespace

OSP_MUTATOR(mutated)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  osp::Json value;
  try {
    value = osp::parse_json({reinterpret_cast<const char*>(data), size}, "input");
  } catch (const osp::Error&) {
    return 0;
  }
  osp::fuzz::accepted(data, size);
  OSP_CHECK(osp::parse_json(value.dump(), "output") == value, "JSON changed on its way");
  return 0;
}
