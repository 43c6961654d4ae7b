#include "osp/base/printable.h"

#include <fmt/format.h>

namespace osp {

std::string printable(std::string_view text, size_t max_bytes) {
  std::string result;
  for (const unsigned char c : text.substr(0, max_bytes)) {
    if (c >= 0x20 && c < 0x7F) {
      result += static_cast<char>(c);
    } else {
      result += fmt::format("\\x{:02x}", c);
    }
  }
  return text.size() > max_bytes ? result + "…" : result;
}

}  // namespace osp
