// Feeds arbitrary bytes to the strict JSON parser. An accepted value must be unchanged after it is
// written and parsed again.
#include <cstdint>
#include <string_view>

#include "osp/base/error.h"
#include "osp/base/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  osp::Json value;
  try {
    value = osp::parse_json({reinterpret_cast<const char*>(data), size}, "input");
  } catch (const osp::Error&) {
    return 0;
  }
  OSP_CHECK(osp::parse_json(value.dump(), "output") == value, "JSON changed on its way");
  return 0;
}
