// A small HTTP/1.1 server for one reader on the same machine: GET and HEAD only, bound to
// 127.0.0.1, one answer per connection. It refuses any Host name other than its own, so that a page
// of another site cannot reach it through a name that resolves to this machine (DNS rebinding).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace osp {

struct HttpResponse {
  int status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::shared_ptr<const std::string> body = std::make_shared<const std::string>();
};

// The parts of a request's head that the server uses.
struct HttpRequest {
  std::string method;
  std::string path;  // as sent
  std::string host;
  int refused = 0;  // status to refuse a malformed or forbidden request with, else 0
};

// Parses the head of a request (up to the empty line, without it) to the server at `port`. Refuses
// with 400 anything that is no HTTP/1 request, 403 another host, 405 another method.
HttpRequest parse_request(std::string_view head, int port);

// Status line, headers and, unless `head_only`, body.
std::string response_head(const HttpResponse& response);

class LoopbackServer {
 public:
  static constexpr size_t kMaxRequestBytes = 8192;
  static constexpr size_t kMaxConnections = 64;

  // Listens; port 0 takes a free one. Error(io) if the port cannot be bound.
  explicit LoopbackServer(int port);
  ~LoopbackServer();
  LoopbackServer(const LoopbackServer&) = delete;
  LoopbackServer& operator=(const LoopbackServer&) = delete;

  int port() const { return port_; }
  std::string url() const;

  // Serves open connections: waits at most `milliseconds` for an event and handles it.
  void step(int milliseconds, const std::function<HttpResponse(const std::string& path)>& answer);

 private:
  struct Connection;
  void accept_new();
  bool advance(Connection& connection,
               const std::function<HttpResponse(const std::string& path)>& answer);

  int listener_ = -1;
  int port_ = 0;
  std::vector<std::unique_ptr<Connection>> connections_;
};

}  // namespace osp
