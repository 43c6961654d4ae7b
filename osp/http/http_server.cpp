#include "osp/http/http_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "osp/base/error.h"

namespace osp {
namespace {

using Clock = std::chrono::steady_clock;

// Time in which the rest of a refused request is read and thrown away: a socket that is closed with
// unread bytes takes the answer back.
constexpr std::chrono::seconds kDrain{2};
constexpr size_t kReadBytes = 1 << 16;
// Time without new connections after the system had no descriptor for one.
constexpr std::chrono::milliseconds kNoDescriptors{100};

HttpResponse plain(int status) {
  return {.status = status,
          .body = std::make_shared<const std::string>(
              fmt::format("{} {}\n", status, reason_of(status))),
          .fields = status == 405 ? "Allow: GET, HEAD\r\n" : ""};
}

void set_nonblocking(int descriptor) {
  fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK);
  fcntl(descriptor, F_SETFD, FD_CLOEXEC);
}

bool try_again() { return errno == EAGAIN || errno == EINTR; }

}  // namespace

HttpWaker::HttpWaker() : descriptor_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (descriptor_ < 0) fail(ErrorCode::io, "no event descriptor: {}", std::strerror(errno));
}
HttpWaker::~HttpWaker() { ::close(descriptor_); }
void HttpWaker::wake() const {
  const uint64_t one = 1;
  // A counter that is full wakes too.
  [[maybe_unused]] const ssize_t count = ::write(descriptor_, &one, sizeof one);
}
void HttpWaker::clear() const {
  uint64_t value = 0;
  [[maybe_unused]] const ssize_t count = ::read(descriptor_, &value, sizeof value);
}

HttpReply::HttpReply(const HttpRequest& request, bool keep_alive,
                     std::shared_ptr<const HttpWaker> waker)
    : keep_alive_(keep_alive && request.chunked),
      chunked_(request.chunked),
      head_only_(request.method == "HEAD"),
      waker_(std::move(waker)) {}

void HttpReply::append(std::string_view bytes) {
  {
    const std::lock_guard lock(mutex_);
    out_ += bytes;
  }
  waker_->wake();
}

void HttpReply::send(const HttpResponse& response) {
  {
    const std::lock_guard lock(mutex_);
    out_ += response_head(response, {.keep_alive = keep_alive_});
    if (!head_only_) out_ += *response.body;
    finished_ = true;
  }
  waker_->wake();
}

void HttpReply::begin_stream(const HttpResponse& head) {
  append(response_head(head, {.keep_alive = keep_alive_, .stream = true, .chunked = chunked_}));
}

void HttpReply::write(std::string_view piece) {
  if (piece.empty() || head_only_) return;
  append(chunked_ ? fmt::format("{:x}\r\n{}\r\n", piece.size(), piece) : std::string(piece));
}

void HttpReply::finish() {
  {
    const std::lock_guard lock(mutex_);
    if (chunked_ && !head_only_) out_ += "0\r\n\r\n";
    finished_ = true;
  }
  waker_->wake();
}

struct HttpServer::Connection {
  explicit Connection(int socket) : descriptor(socket) {}
  ~Connection() {
    if (reply != nullptr) reply->gone_ = true;
    ::close(descriptor);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  bool answering() const { return reply != nullptr; }
  bool between_requests() const {
    return !answering() && !closing && received.empty() && !has_head;
  }
  // Moves what the reply has to the bytes to send; true if the reply is complete.
  bool take_answer() {
    const std::lock_guard lock(reply->mutex_);
    out += reply->out_;
    reply->out_.clear();
    return reply->finished_;
  }

  int descriptor;
  Clock::time_point start = Clock::now();  // of what it waits for
  std::string received;
  bool has_head = false;
  HttpRequest request;  // its head, while the body comes
  std::shared_ptr<HttpReply> reply;
  std::string out;
  size_t sent = 0;        // bytes of `out`
  bool complete = false;  // `out` has the whole answer
  bool closing = false;   // answered for the last time; reads until the client closes too
};

HttpServer::HttpServer(HttpOptions options)
    : options_(std::move(options)), waker_(std::make_shared<const HttpWaker>()) {
  listener_ = socket(AF_INET, SOCK_STREAM, 0);
  if (listener_ < 0) fail(ErrorCode::io, "no socket: {}", std::strerror(errno));
  const int yes = 1;
  setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  set_nonblocking(listener_);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(options_.port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener_, any, size) != 0 || listen(listener_, 128) != 0 ||
      getsockname(listener_, any, &size) != 0) {
    const int error = errno;
    ::close(listener_);
    fail(ErrorCode::io, "127.0.0.1:{}: {}; choose another --port, or none for a free one",
         options_.port, std::strerror(error));
  }
  port_ = ntohs(address.sin_port);
  rules_ = {.hosts = options_.hosts, .most_body_bytes = options_.most_body_bytes};
  rules_.hosts.push_back(fmt::format("127.0.0.1:{}", port_));
  rules_.hosts.push_back(fmt::format("localhost:{}", port_));
}

HttpServer::~HttpServer() {
  if (listener_ >= 0) ::close(listener_);
}

std::string HttpServer::url() const { return fmt::format("http://127.0.0.1:{}/", port_); }

void HttpServer::close() {
  if (listener_ >= 0) ::close(listener_);
  listener_ = -1;
  std::erase_if(connections_, [](const auto& c) { return !c->answering() && !c->closing; });
}

// A place for a new connection: that of the client that has been silent between requests longest.
bool HttpServer::make_room() {
  if (connections_.size() < options_.most_connections) return true;
  auto oldest = connections_.end();
  for (auto c = connections_.begin(); c != connections_.end(); ++c) {
    const bool older = oldest == connections_.end() || (*c)->start < (*oldest)->start;
    if ((*c)->between_requests() && older) oldest = c;
  }
  if (oldest == connections_.end()) return false;
  connections_.erase(oldest);
  return true;
}

void HttpServer::accept_new() {
  while (make_room()) {
    const int descriptor = accept(listener_, nullptr, nullptr);
    if (descriptor < 0) {
      // Without descriptors the listener stays ready: it is left alone for a while.
      if (!try_again()) accepts_again_ = Clock::now() + kNoDescriptors;
      return;
    }
    set_nonblocking(descriptor);
    const int yes = 1;
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    connections_.push_back(std::make_unique<Connection>(descriptor));
  }
}

void HttpServer::refuse(Connection& connection, int status) {
  connection.reply = std::make_shared<HttpReply>(connection.request, false, waker_);
  connection.reply->send(options_.refusal ? options_.refusal(status) : plain(status));
}

// Reads what is there; false once the client has closed.
bool HttpServer::receive(Connection& connection) {
  char buffer[kReadBytes];
  const ssize_t count = recv(connection.descriptor, buffer, sizeof buffer, 0);
  if (count < 0) return try_again();
  if (count == 0) return false;
  if (!connection.closing) connection.received.append(buffer, static_cast<size_t>(count));
  return true;
}

// Hands on the request that the received bytes begin with, once it is whole.
void HttpServer::take_request(Connection& connection, const Handler& handler) {
  // The head.
  std::string& received = connection.received;
  if (!connection.has_head) {
    const size_t end = received.find("\r\n\r\n");
    if (std::min(end, received.size()) > kMaxHeadBytes) return refuse(connection, 431);
    if (end == std::string::npos) return;
    connection.request = parse_request(std::string_view(received).substr(0, end), rules_);
    received.erase(0, end + 4);
    connection.start = Clock::now();
    if (connection.request.refused != 0) return refuse(connection, connection.request.refused);
    connection.has_head = true;
    if (connection.request.expects_continue && received.size() < connection.request.body_bytes) {
      connection.out += "HTTP/1.1 100 Continue\r\n\r\n";
    }
  }
  // The body.
  HttpRequest& request = connection.request;
  if (received.size() < request.body_bytes) return;
  request.body = received.substr(0, request.body_bytes);
  received.erase(0, request.body_bytes);
  connection.has_head = false;
  connection.reply =
      std::make_shared<HttpReply>(request, request.keep_alive && listener_ >= 0, waker_);
  connection.start = Clock::now();
  handler(std::exchange(request, {}), connection.reply);
}

// Sends as much as the client takes; false when the connection is finished.
bool HttpServer::send_some(Connection& connection) {
  if (connection.answering()) {
    if (connection.out.empty()) connection.start = Clock::now();
    connection.complete = connection.take_answer();
  }
  while (connection.sent < connection.out.size()) {
    const ssize_t count = send(connection.descriptor, connection.out.data() + connection.sent,
                               connection.out.size() - connection.sent, MSG_NOSIGNAL);
    if (count < 0) return try_again();
    connection.sent += static_cast<size_t>(count);
    connection.start = Clock::now();
  }
  connection.out.clear();
  connection.sent = 0;
  if (!connection.complete) return true;
  // The answer is out: the next request, or the end.
  connection.complete = false;
  connection.closing = !connection.reply->keep_alive_ || listener_ < 0;
  connection.reply = nullptr;
  connection.start = Clock::now();
  if (connection.closing) shutdown(connection.descriptor, SHUT_WR);
  return true;
}

// Reads or writes as much as possible without waiting; false when the connection is finished.
bool HttpServer::advance(Connection& connection, short events, const Handler& handler) {
  if (connection.closing) return events == 0 || receive(connection);
  // A client that leaves before its answer is complete.
  if (connection.answering() && (events & (POLLRDHUP | POLLHUP | POLLERR)) != 0 &&
      !connection.complete) {
    return false;
  }
  if (!connection.answering()) {
    if ((events & (POLLIN | POLLHUP | POLLERR)) != 0 && !receive(connection)) return false;
    take_request(connection, handler);
  }
  // Requests that came together are answered in turn.
  bool open = send_some(connection);
  while (open && !connection.answering() && !connection.closing && !connection.received.empty()) {
    take_request(connection, handler);
    if (!connection.answering()) break;
    open = send_some(connection);
  }
  return open;
}

bool HttpServer::is_late(const Connection& connection) const {
  const auto waited = Clock::now() - connection.start;
  if (connection.closing) return waited > kDrain;
  // Whoever computes the answer may take his time.
  const bool waits_for_client = !connection.answering() || !connection.out.empty();
  return waits_for_client && waited > options_.patience;
}

void HttpServer::step(int milliseconds, const Handler& handler) {
  // Wait for an event.
  std::vector<pollfd> waiting{{listener_, POLLIN, 0}, {waker_->descriptor(), POLLIN, 0}};
  for (const auto& connection : connections_) {
    short events = !connection->out.empty() ? POLLOUT : 0;
    if (!connection->answering()) events |= POLLIN;
    if (connection->answering() && !connection->complete) events |= POLLRDHUP;
    waiting.push_back({connection->descriptor, events, 0});
  }
  const bool full = std::none_of(connections_.begin(), connections_.end(),
                                 [](const auto& c) { return c->between_requests(); }) &&
                    connections_.size() >= options_.most_connections;
  if (full || Clock::now() < accepts_again_) waiting[0].fd = -1;
  if (poll(waiting.data(), waiting.size(), milliseconds) < 0) return;  // a signal
  waker_->clear();
  // Serve each connection; answers may have come without an event of its own.
  std::vector<std::unique_ptr<Connection>> open;
  for (size_t i = 0; i < connections_.size(); ++i) {
    if (!is_late(*connections_[i]) && advance(*connections_[i], waiting[i + 2].revents, handler)) {
      open.push_back(std::move(connections_[i]));
    }
  }
  connections_ = std::move(open);
  if (waiting[0].revents != 0 && listener_ >= 0) accept_new();
}

}  // namespace osp
