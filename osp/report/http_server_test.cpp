// The server of `osp report --watch`: requests that it accepts, whole and in pieces, and requests
// that it refuses.
#include "osp/report/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr int kPort = 8123;

HttpRequest parse(const std::string& line, const std::string& fields = "Host: 127.0.0.1:8123") {
  return parse_request(line + "\r\n" + fields, kPort);
}

TEST(ParseRequest, TakesMethodPathAndHost) {
  const HttpRequest request =
      parse("GET /version HTTP/1.1", "Accept: */*\r\nhOsT:\tLOCALHOST:8123 ");
  EXPECT_EQ(request.refused, 0);
  EXPECT_EQ(request.method, "GET");
  EXPECT_EQ(request.path, "/version");
  EXPECT_EQ(request.host, "localhost:8123");
  EXPECT_EQ(parse("HEAD / HTTP/1.0").refused, 0);
}

TEST(ParseRequest, RefusesWhatIsNoRequestLine) {
  for (const char* line :
       {"", " ", "GET", "GET /", "GET  / HTTP/1.1", "GET version HTTP/1.1", "GET / HTTP/2",
        "GET http://127.0.0.1:8123/ HTTP/1.1", "GET / FTP/1.1", "/ HTTP/1.1"}) {
    EXPECT_EQ(parse(line).refused, 400) << line;
  }
}

TEST(ParseRequest, WantsExactlyOneHost) {
  EXPECT_EQ(parse("GET / HTTP/1.1", "Accept: */*").refused, 400);
  EXPECT_EQ(parse("GET / HTTP/1.1", "Host: 127.0.0.1:8123\r\nHost: 127.0.0.1:8123").refused, 400);
}

TEST(ParseRequest, RefusesOtherHostsAndOtherPorts) {
  for (const char* host : {"evil.example", "evil.example:8123", "127.0.0.1", "127.0.0.1:80",
                           "127.0.0.1:8123.evil.example", ""}) {
    EXPECT_EQ(parse("GET / HTTP/1.1", std::string("Host: ") + host).refused, 403) << host;
  }
}

TEST(ParseRequest, RefusesOtherMethods) {
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "get"}) {
    EXPECT_EQ(parse(std::string(method) + " / HTTP/1.1").refused, 405) << method;
  }
}

TEST(ResponseHead, HasLengthAndNeitherCacheNorSniffing) {
  const std::string head =
      response_head({.status = 404, .body = std::make_shared<const std::string>("12345")});
  EXPECT_TRUE(head.starts_with("HTTP/1.1 404 Not Found\r\n"));
  EXPECT_TRUE(head.ends_with("\r\n\r\n"));
  for (const char* field : {"Content-Length: 5\r\n", "Cache-Control: no-store\r\n",
                            "X-Content-Type-Options: nosniff\r\n", "Connection: close\r\n"}) {
    EXPECT_NE(head.find(field), std::string::npos) << field;
  }
}

// A server that answers every path with a large body, and a client's socket to it.
class Served : public testing::Test {
 protected:
  void SetUp() override {
    client_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(server_.port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(connect(client_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  void TearDown() override { close(client_); }

  void send_text(const std::string& text) {
    ASSERT_EQ(send(client_, text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
    for (int i = 0; i < 3; ++i) step();
  }

  void step() {
    server_.step(10, [this](const std::string& path) {
      paths_.push_back(path);
      return HttpResponse{.body = body_};
    });
  }

  // The bytes received so far; all of them once the server has closed the connection.
  std::string received() {
    std::string text;
    char buffer[1 << 16];
    for (int i = 0; i < 200; ++i) {
      step();
      const ssize_t count = recv(client_, buffer, sizeof buffer, MSG_DONTWAIT);
      if (count == 0) break;
      if (count > 0) text.append(buffer, static_cast<size_t>(count));
    }
    return text;
  }

  std::string host() const { return "Host: 127.0.0.1:" + std::to_string(server_.port()) + "\r\n"; }

  LoopbackServer server_{0};
  int client_ = -1;
  std::vector<std::string> paths_;
  std::shared_ptr<const std::string> body_ = std::make_shared<const std::string>(3'000'000, 'x');
};

TEST_F(Served, ARequestInPiecesIsAnsweredOnceItIsWhole) {
  for (const std::string& piece :
       {std::string("GE"), std::string("T /upd"), "ate HTTP/1.1\r\n" + host(), std::string("\r")}) {
    send_text(piece);
    EXPECT_TRUE(paths_.empty());
  }
  send_text("\n");
  const std::string answer = received();
  EXPECT_EQ(paths_, std::vector<std::string>{"/update"});
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n"));
  EXPECT_EQ(answer.size() - answer.find("\r\n\r\n") - 4, body_->size());
}

TEST_F(Served, HeadIsAnsweredWithoutABody) {
  send_text("HEAD / HTTP/1.1\r\n" + host() + "\r\n");
  const std::string answer = received();
  EXPECT_NE(answer.find("Content-Length: 3000000\r\n"), std::string::npos);
  EXPECT_TRUE(answer.ends_with("\r\n\r\n"));
}

TEST_F(Served, AHeadThatIsTooLongIsRefusedBeforeItEnds) {
  send_text("GET / HTTP/1.1\r\n" + host() + "X: ");
  for (int i = 0; i < 3; ++i) send_text(std::string(LoopbackServer::kMaxRequestBytes / 2, 'y'));
  EXPECT_TRUE(received().starts_with("HTTP/1.1 431 "));
  EXPECT_TRUE(paths_.empty());
}

TEST_F(Served, BytesThatAreNoRequestAreRefused) {
  send_text(std::string("\0\xff\x01\r\n\r\n", 7));
  EXPECT_TRUE(received().starts_with("HTTP/1.1 400 "));
  EXPECT_TRUE(paths_.empty());
}

TEST_F(Served, AClientThatGoesAwayHarmsNothing) {
  send_text("GET / HT");
  close(client_);
  for (int i = 0; i < 5; ++i) step();
  SetUp();
  send_text("GET / HTTP/1.1\r\n" + host() + "\r\n");
  EXPECT_TRUE(received().starts_with("HTTP/1.1 200 "));
}

TEST(LoopbackServer, APortInUseIsAnErrorThatSaysWhatToDo) {
  const LoopbackServer first(0);
  try {
    const LoopbackServer second(first.port());
    FAIL() << "two servers at one port";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::io);
    EXPECT_NE(std::string(error.what()).find("choose another --port"), std::string::npos);
  }
}

}  // namespace
}  // namespace osp
