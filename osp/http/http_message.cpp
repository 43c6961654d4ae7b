#include "osp/http/http_message.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "osp/base/error.h"

namespace osp {
namespace {

// Digits of a Content-Length: enough for any limit, too few to overflow.
constexpr size_t kMostDigits = 18;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

bool is_name(std::string_view text) {
  constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           kMarks.find(c) != std::string_view::npos;
  });
}

// No control characters: a lone CR or LF, NUL.
bool is_plain(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 ? c != 0x7f : c == '\t';
  });
}

// Visible ASCII, as a path is sent.
bool is_visible(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

std::optional<size_t> length_of(std::string_view text) {
  if (text.empty() || text.size() > kMostDigits) return std::nullopt;
  size_t length = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    length = length * 10 + static_cast<size_t>(c - '0');
  }
  return length;
}

// Fields of a head that may be there once.
struct Fields {
  std::optional<std::string_view> host, length, encoding, connection, expect, authorization;

  // Takes one line; false if it is malformed or repeats one of these.
  bool take(std::string_view line) {
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || !is_name(line.substr(0, colon)) || !is_plain(line)) {
      return false;
    }
    const std::string name = lower(line.substr(0, colon));
    std::optional<std::string_view>* const place = name == "host"                ? &host
                                                   : name == "content-length"    ? &length
                                                   : name == "transfer-encoding" ? &encoding
                                                   : name == "connection"        ? &connection
                                                   : name == "expect"            ? &expect
                                                   : name == "authorization"     ? &authorization
                                                                                 : nullptr;
    if (place == nullptr) return true;
    if (place->has_value()) return false;
    *place = trimmed(line.substr(colon + 1));
    return true;
  }
};

// METHOD /path HTTP/1.x; false for anything else.
bool take_request_line(std::string_view line, HttpRequest& request) {
  const size_t first = line.find(' ');
  const size_t second = first == std::string_view::npos ? first : line.find(' ', first + 1);
  if (second == std::string_view::npos || !is_name(line.substr(0, first))) {
    return false;
  }
  const std::string_view version = line.substr(second + 1);
  request.method = line.substr(0, first);
  request.path = line.substr(first + 1, second - first - 1);
  request.chunked = version == "HTTP/1.1";
  return request.path.starts_with('/') && is_visible(request.path) &&
         (request.chunked || version == "HTTP/1.0");
}

// The status to refuse a well-formed head with, 0 for none.
int refusal(const HttpRequest& request, const Fields& fields, const HttpRules& rules) {
  if (std::find(rules.hosts.begin(), rules.hosts.end(), request.host) == rules.hosts.end()) {
    return 403;
  }
  const bool post = request.method == "POST";
  const bool reads = request.method == "GET" || request.method == "HEAD";
  if (!reads && !(post && rules.most_body_bytes > 0)) return 405;
  // A body has a length, or the next request would begin in the middle of it.
  if (fields.encoding.has_value()) return fields.length.has_value() ? 400 : 411;
  if (post && !fields.length.has_value()) return 411;
  if (!post && request.body_bytes > 0) return 400;
  if (request.body_bytes > rules.most_body_bytes) return 413;
  if (fields.expect.has_value() && !request.expects_continue) return 417;
  return 0;
}

}  // namespace

HttpRequest parse_request(std::string_view head, const HttpRules& rules) {
  // Request line and fields.
  HttpRequest request;
  Fields fields;
  size_t end = head.find("\r\n");
  bool good = take_request_line(head.substr(0, end), request);
  while (good && end != std::string_view::npos) {
    const size_t begin = end + 2;
    end = head.find("\r\n", begin);
    good = fields.take(head.substr(begin, end == std::string_view::npos ? end : end - begin));
  }
  const std::optional<size_t> length = length_of(fields.length.value_or("0"));
  if (!good || !fields.host.has_value() || !length.has_value()) {
    request.refused = 400;
    return request;
  }
  // Read what they say.
  request.host = lower(*fields.host);
  request.authorization = fields.authorization.value_or("");
  request.body_bytes = *length;
  request.expects_continue = lower(fields.expect.value_or("")) == "100-continue";
  const std::string connection = lower(fields.connection.value_or(""));
  request.keep_alive = request.chunked ? connection.find("close") == std::string::npos
                                       : connection.find("keep-alive") != std::string::npos;
  request.refused = refusal(request, fields, rules);
  return request;
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned char byte = 0;
    const char* const digits = text.data() + i + 1;
    if (text[i] == '%' && text.size() - i > 2 &&
        std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2) {
      out += static_cast<char>(byte);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

const char* reason_of(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 411:
      return "Length Required";
    case 413:
      return "Content Too Large";
    case 417:
      return "Expectation Failed";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    default:
      return "Error";
  }
}

std::string response_head(const HttpResponse& response, const HttpFraming& framing) {
  const std::string length = !framing.stream
                                 ? fmt::format("Content-Length: {}\r\n", response.body->size())
                             : framing.chunked ? "Transfer-Encoding: chunked\r\n"
                                               : "";
  return fmt::format(
      "HTTP/1.1 {} {}\r\nContent-Type: {}\r\n{}{}Connection: {}\r\n"
      "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"
      "Cross-Origin-Resource-Policy: same-origin\r\nReferrer-Policy: no-referrer\r\n\r\n",
      response.status, reason_of(response.status), response.type, length, response.fields,
      framing.keep_alive ? "keep-alive" : "close");
}

}  // namespace osp
