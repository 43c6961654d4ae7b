// Feeds arbitrary bytes to the parser of HTTP heads. What it accepts has one body length within the
// limit, a known method and host, and no byte that another program could take for the end
// of a line.
#include <cstdint>
#include <string_view>

#include "osp/base/error.h"
#include "osp/http/http_message.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const osp::HttpRules rules{.hosts = {"localhost:1"}, .most_body_bytes = 100};
  const osp::HttpRequest request =
      osp::parse_request({reinterpret_cast<const char*>(data), size}, rules);
  if (request.refused != 0) return 0;
  OSP_CHECK(request.host == "localhost:1" && request.body_bytes <= 100, "a head beyond the rules");
  OSP_CHECK(request.path.starts_with('/'), "a path without its beginning");
  OSP_CHECK(request.path.find_first_of("\r\n\t ") == std::string::npos, "a path with white space");
  OSP_CHECK(request.authorization.find_first_of("\r\n") == std::string::npos,
            "a field of two lines");
  return 0;
}
