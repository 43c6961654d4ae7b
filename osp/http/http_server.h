// A small HTTP/1.1 server for programs on the same machine, bound to 127.0.0.1. It refuses any Host
// name other than its own, so that a page of another site cannot reach it through a name that
// resolves to this machine (DNS rebinding).
//
// One thread serves all connections. Answers may come later and from any thread, whole or
// as a stream.
//
// Tested by http_server_test.cpp.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "osp/http/http_message.h"

namespace osp {

// Wakes the server's thread.
class HttpWaker {
 public:
  HttpWaker();
  ~HttpWaker();
  HttpWaker(const HttpWaker&) = delete;
  HttpWaker& operator=(const HttpWaker&) = delete;
  int descriptor() const { return descriptor_; }
  void wake() const;
  void clear() const;

 private:
  int descriptor_;
};

// The answer to one request. Any thread may use it, also after the client or the server has gone.
class HttpReply {
 public:
  HttpReply(const HttpRequest& request, bool keep_alive, std::shared_ptr<const HttpWaker> waker);

  // The whole answer.
  void send(const HttpResponse& response);
  // An answer in pieces, which ends with finish().
  void begin_stream(const HttpResponse& head);
  void write(std::string_view piece);
  void finish();
  // The client has left: nobody will read the rest.
  bool gone() const { return gone_; }

 private:
  friend class HttpServer;
  void append(std::string_view bytes);

  const bool keep_alive_, chunked_, head_only_;
  const std::shared_ptr<const HttpWaker> waker_;
  std::atomic<bool> gone_ = false;
  std::mutex mutex_;
  std::string out_;  // bytes that the server has not taken yet
  bool finished_ = false;
};

struct HttpOptions {
  int port = 0;                         // 0: a free one
  std::vector<std::string> hosts = {};  // accepted beside 127.0.0.1 and localhost with the port
  size_t most_body_bytes = 0;           // 0: GET and HEAD only
  size_t most_connections = 64;
  // For a head, for a body behind it, for a client to take some of its answer, and
  // between requests.
  std::chrono::milliseconds patience{30'000};
  // The answer to a request that is refused with this status; null: a line of text.
  std::function<HttpResponse(int status)> refusal = nullptr;
};

class HttpServer {
 public:
  static constexpr size_t kMaxHeadBytes = 8192;
  using Handler = std::function<void(HttpRequest&&, const std::shared_ptr<HttpReply>&)>;

  // Listens. Error(io) if the port cannot be bound.
  explicit HttpServer(HttpOptions options);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const { return port_; }
  std::string url() const;

  // Serves open connections: waits at most `milliseconds` for an event and handles it.
  void step(int milliseconds, const Handler& handler);
  // Takes no more requests; those that are being answered go on.
  void close();
  // Nothing is left to send.
  bool idle() const { return connections_.empty(); }

 private:
  struct Connection;
  void accept_new();
  bool advance(Connection& connection, short events, const Handler& handler);
  bool receive(Connection& connection);
  void take_request(Connection& connection, const Handler& handler);
  void refuse(Connection& connection, int status);
  bool send_some(Connection& connection);
  bool is_late(const Connection& connection) const;
  bool make_room();

  HttpOptions options_;
  HttpRules rules_;
  std::shared_ptr<const HttpWaker> waker_;
  int listener_ = -1;
  std::chrono::steady_clock::time_point accepts_again_ = {};
  int port_ = 0;
  std::vector<std::unique_ptr<Connection>> connections_;
};

}  // namespace osp
