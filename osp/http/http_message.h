// Requests and answers of HTTP/1.1: what the servers of this program understand, and what
// they send.
//
// The parser is strict where programs that read a request differently could be played off against
// each other: exactly one Host, at most one Content-Length, no Transfer-Encoding, no white space
// around names, no control characters.
//
// Tested by http_message_test.cpp and fuzz/http_request_fuzz.cpp.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace osp {

struct HttpResponse {
  int status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::shared_ptr<const std::string> body = std::make_shared<const std::string>();
  std::string fields = {};  // further fields of the head, each with its line end
};

struct HttpRequest {
  std::string method;
  std::string path;  // as sent
  std::string host;
  std::string authorization;
  std::string body;
  size_t body_bytes = 0;    // of Content-Length
  bool keep_alive = false;  // the connection stays open for another request
  bool chunked = false;     // the client understands chunks (HTTP/1.1)
  bool expects_continue = false;
  int refused = 0;  // status to refuse a malformed or forbidden request with, else 0
};

// Limits of a server: the requests that it accepts.
struct HttpRules {
  std::vector<std::string> hosts = {};  // names that it answers to, "localhost:8080"
  size_t most_body_bytes = 0;           // 0: GET and HEAD only, else POST too
};

// Parses the head of a request, up to the empty line, without it. Refuses with 400 what is no
// HTTP/1 request, 403 another host, 405 another method, 411 a POST without Content-Length, 413 a
// body beyond the limit, 417 an expectation that it does not know.
HttpRequest parse_request(std::string_view head, const HttpRules& rules);

// A part of a path with the bytes that its %XX mean; a % without two digits stays.
std::string percent_decoded(std::string_view text);

// "Not Found" of 404.
const char* reason_of(int status);

// How an answer ends.
struct HttpFraming {
  bool keep_alive = false;
  bool stream = false;   // the length is not known
  bool chunked = false;  // a stream in chunks; without, it ends with the connection
};

// Status line and fields, with the empty line.
std::string response_head(const HttpResponse& response, const HttpFraming& framing);

}  // namespace osp
