// Text from files in messages: a name in a file must not move the cursor, colour the terminal,
// break a log's lines or fill the screen.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace osp {

// `text` as printable ASCII: every other byte as \xHH, and "…" for what follows the first
// `max_bytes` bytes.
std::string printable(std::string_view text, size_t max_bytes = 60);

}  // namespace osp
