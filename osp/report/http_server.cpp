#include "osp/report/http_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "osp/base/error.h"

namespace osp {
namespace {

using Clock = std::chrono::steady_clock;

// Time after which a connection is closed, answered or not.
constexpr std::chrono::seconds kPatience{30};

const char* reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 431:
      return "Request Header Fields Too Large";
    default:
      return "Error";
  }
}

HttpResponse plain(int status) {
  return {
      .status = status,
      .body = std::make_shared<const std::string>(fmt::format("{} {}\n", status, reason(status)))};
}

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

void set_nonblocking(int descriptor) {
  fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK);
  fcntl(descriptor, F_SETFD, FD_CLOEXEC);
}

}  // namespace

HttpRequest parse_request(std::string_view head, int port) {
  // Request line: METHOD /path HTTP/1.x.
  HttpRequest request;
  size_t end = head.find("\r\n");
  const std::string_view line = head.substr(0, end);
  const size_t first = line.find(' ');
  const size_t second = first == std::string_view::npos ? first : line.find(' ', first + 1);
  if (second == std::string_view::npos || !line.substr(second + 1).starts_with("HTTP/1.") ||
      second == first + 1 || line[first + 1] != '/') {
    request.refused = 400;
    return request;
  }
  request.method = line.substr(0, first);
  request.path = line.substr(first + 1, second - first - 1);
  // Fields: exactly one Host.
  int hosts = 0;
  while (end != std::string_view::npos) {
    const size_t begin = end + 2;
    end = head.find("\r\n", begin);
    const std::string_view field =
        head.substr(begin, end == std::string_view::npos ? end : end - begin);
    const size_t colon = field.find(':');
    if (colon == std::string_view::npos || colon == 0) {
      request.refused = 400;
      return request;
    }
    if (lower(field.substr(0, colon)) != "host") continue;
    request.host = lower(trimmed(field.substr(colon + 1)));
    ++hosts;
  }
  // Only this server's own names, GET and HEAD.
  const bool ours = request.host == fmt::format("127.0.0.1:{}", port) ||
                    request.host == fmt::format("localhost:{}", port);
  if (hosts != 1) {
    request.refused = 400;
  } else if (!ours) {
    request.refused = 403;
  } else if (request.method != "GET" && request.method != "HEAD") {
    request.refused = 405;
  }
  return request;
}

std::string response_head(const HttpResponse& response) {
  return fmt::format(
      "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Connection: close\r\n"
      "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\n"
      "Cross-Origin-Resource-Policy: same-origin\r\nReferrer-Policy: no-referrer\r\n\r\n",
      response.status, reason(response.status), response.type, response.body->size(),
      response.status == 405 ? "Allow: GET, HEAD\r\n" : "");
}

struct LoopbackServer::Connection {
  explicit Connection(int socket) : descriptor(socket) {}
  ~Connection() { close(descriptor); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  bool answering() const { return !head.empty(); }
  void respond(const HttpResponse& response, bool head_only) {
    head = response_head(response);
    if (!head_only) body = response.body;
  }

  int descriptor;
  Clock::time_point start = Clock::now();
  std::string received;
  std::string head;  // the answer's
  std::shared_ptr<const std::string> body;
  size_t sent = 0;  // bytes of the head and body so far
};

LoopbackServer::LoopbackServer(int port) {
  listener_ = socket(AF_INET, SOCK_STREAM, 0);
  if (listener_ < 0) fail(ErrorCode::io, "no socket: {}", std::strerror(errno));
  const int yes = 1;
  setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  set_nonblocking(listener_);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener_, any, size) != 0 || listen(listener_, 16) != 0 ||
      getsockname(listener_, any, &size) != 0) {
    const int error = errno;
    close(listener_);
    fail(ErrorCode::io, "127.0.0.1:{}: {}; choose another --port, or none for a free one", port,
         std::strerror(error));
  }
  port_ = ntohs(address.sin_port);
}

LoopbackServer::~LoopbackServer() { close(listener_); }

std::string LoopbackServer::url() const { return fmt::format("http://127.0.0.1:{}/", port_); }

void LoopbackServer::accept_new() {
  while (connections_.size() < kMaxConnections) {
    const int descriptor = accept(listener_, nullptr, nullptr);
    if (descriptor < 0) return;
    set_nonblocking(descriptor);
    connections_.push_back(std::make_unique<Connection>(descriptor));
  }
}

// Reads or writes as much as possible without waiting; false when the connection is finished.
bool LoopbackServer::advance(Connection& connection,
                             const std::function<HttpResponse(const std::string& path)>& answer) {
  // Receive until the head of the request is complete.
  if (!connection.answering()) {
    char buffer[4096];
    const ssize_t count = recv(connection.descriptor, buffer, sizeof buffer, 0);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    if (count == 0) return false;
    connection.received.append(buffer, static_cast<size_t>(count));
    const size_t end = connection.received.find("\r\n\r\n");
    const bool too_long = std::min(end, connection.received.size()) > kMaxRequestBytes;
    if (end == std::string::npos && !too_long) return true;
    if (too_long) {
      connection.respond(plain(431), false);
    } else {
      const HttpRequest request =
          parse_request(std::string_view(connection.received).substr(0, end), port_);
      connection.respond(request.refused ? plain(request.refused) : answer(request.path),
                         request.method == "HEAD");
    }
  }
  // Send the answer.
  const size_t total = connection.head.size() + (connection.body ? connection.body->size() : 0);
  while (connection.sent < total) {
    const bool in_head = connection.sent < connection.head.size();
    const std::string& part = in_head ? connection.head : *connection.body;
    const size_t at = in_head ? connection.sent : connection.sent - connection.head.size();
    const ssize_t count =
        send(connection.descriptor, part.data() + at, part.size() - at, MSG_NOSIGNAL);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    connection.sent += static_cast<size_t>(count);
  }
  shutdown(connection.descriptor, SHUT_WR);
  return false;
}

void LoopbackServer::step(int milliseconds,
                          const std::function<HttpResponse(const std::string& path)>& answer) {
  std::vector<pollfd> waiting;
  waiting.push_back(
      {listener_, connections_.size() < kMaxConnections ? short{POLLIN} : short{0}, 0});
  for (const auto& connection : connections_) {
    waiting.push_back(
        {connection->descriptor, connection->answering() ? short{POLLOUT} : short{POLLIN}, 0});
  }
  if (poll(waiting.data(), waiting.size(), milliseconds) < 0) return;  // a signal
  const Clock::time_point now = Clock::now();
  std::vector<std::unique_ptr<Connection>> open;
  for (size_t i = 0; i < connections_.size(); ++i) {
    const bool ready = waiting[i + 1].revents != 0;
    const bool late = now - connections_[i]->start > kPatience;
    if (!late && (!ready || advance(*connections_[i], answer))) {
      open.push_back(std::move(connections_[i]));
    }
  }
  connections_ = std::move(open);
  if (waiting[0].revents != 0) accept_new();
}

}  // namespace osp
