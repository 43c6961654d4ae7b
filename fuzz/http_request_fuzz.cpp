// Feeds arbitrary bytes to the parser of HTTP heads. What it accepts has one body length within the
// limit, a known method and host, and no byte that another program could take for the end
// of a line.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/mutator.h"
#include "osp/base/error.h"
#include "osp/http/http_message.h"

namespace {

using osp::fuzz::Dice;

// Changes, adds, doubles or removes a field, and mostly lets the host be the one that is known.
std::string mutated(std::string_view head, Dice& dice) {
  static const std::string kBegins[] = {"GET / HTTP/1.1", "POST /v1/completions?a=%41 HTTP/1.1",
                                        "HEAD http://localhost:1/ HTTP/1.0", "OPTIONS * HTTP/1.1"};
  static const std::string kFields[] = {
      "Content-Length: 17",        "Content-Length: 101",  "Connection: close",
      "Connection: keep-alive, x", "Expect: 100-continue", "Authorization: Bearer x",
      "Transfer-Encoding: x",      "content-length:\t0 ",  "X-Own: \xC3\xA9",
      "Connection: Keep-Alive",    "Host: localhost:1",    "Accept: */*"};
  constexpr std::string_view kEnd = "\r\n";
  std::vector<std::string> lines;
  for (size_t first = 0; first <= head.size();) {
    const size_t end = std::min(head.find(kEnd, first), head.size());
    lines.emplace_back(head.substr(first, end - first));
    first = end + kEnd.size();
  }
  const auto place = lines.begin() + static_cast<std::ptrdiff_t>(dice.below(lines.size()));
  const size_t choice = dice.below(6);
  if (choice == 0) lines[0] = dice.one_of(kBegins);
  if (choice == 1 && place != lines.begin()) lines.erase(place);
  if (choice == 2) lines.push_back(*place);
  if (choice == 3) *place = osp::fuzz::changed_bytes(*place, dice);
  if (choice > 3) lines.push_back(dice.one_of(kFields));
  if (!dice.one_in(8)) {
    std::erase_if(lines, [](const std::string& line) { return line.starts_with("Host:"); });
    if (lines.empty()) lines.push_back(kBegins[0]);
    const std::string host = "Host: localhost:1";
    lines.insert(lines.begin() + 1, host);
  }
  std::string result;
  for (const std::string& line : lines) result += (result.empty() ? "" : "\r\n") + line;
  return result;
}

}  // namespace

OSP_MUTATOR(mutated)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const osp::HttpRules rules{.hosts = {"localhost:1"}, .most_body_bytes = 100};
  const osp::HttpRequest request =
      osp::parse_request({reinterpret_cast<const char*>(data), size}, rules);
  if (request.refused != 0) return 0;
  osp::fuzz::accepted(data, size);
  OSP_CHECK(request.host == "localhost:1" && request.body_bytes <= 100, "a head beyond the rules");
  OSP_CHECK(request.path.starts_with('/'), "a path without its beginning");
  OSP_CHECK(request.path.find_first_of("\r\n\t ") == std::string::npos, "a path with white space");
  OSP_CHECK(request.authorization.find_first_of("\r\n") == std::string::npos,
            "a field of two lines");
  return 0;
}
