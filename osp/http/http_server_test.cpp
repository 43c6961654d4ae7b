// Connections: requests in pieces and one after the other, answers whole, late and in chunks,
// clients that are slow, too many or gone.
#include "osp/http/http_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "osp/base/error.h"

namespace osp {
namespace {

// A server, and a client's socket to it. It answers every path with a large body; "/later" stays
// open for the test to answer.
class Served : public testing::Test {
 protected:
  explicit Served(const HttpOptions& options = {}) : server_(options) {}
  void SetUp() override { client_ = connected(); }
  void TearDown() override { close(client_); }

  int connected() {
    const int client = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(server_.port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return client;
  }

  void send_text(const std::string& text) {
    ASSERT_EQ(send(client_, text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
    for (int i = 0; i < 3; ++i) step();
  }

  void step(int milliseconds = 10) {
    server_.step(milliseconds, [this](HttpRequest&& request, const std::shared_ptr<HttpReply>& r) {
      paths_.push_back(request.path);
      bodies_.push_back(request.body);
      reply_ = r;
      if (request.path != "/later") r->send({.body = body_});
    });
  }

  // The bytes received until the server closes, or until `steps` steps.
  std::string received(int steps = 200) {
    std::string text;
    char buffer[1 << 16];
    for (int i = 0; i < steps; ++i) {
      step();
      const ssize_t count = recv(client_, buffer, sizeof buffer, MSG_DONTWAIT);
      if (count == 0) break;
      if (count > 0) text.append(buffer, static_cast<size_t>(count));
    }
    return text;
  }

  std::string host() const { return "Host: 127.0.0.1:" + std::to_string(server_.port()) + "\r\n"; }
  std::string request(const std::string& line,
                      const std::string& fields = "Connection: close\r\n") {
    return line + " HTTP/1.1\r\n" + host() + fields + "\r\n";
  }

  HttpServer server_;
  int client_ = -1;
  std::vector<std::string> paths_, bodies_;
  std::shared_ptr<HttpReply> reply_;
  std::shared_ptr<const std::string> body_ = std::make_shared<const std::string>(3'000'000, 'x');
};

class Posted : public Served {
 protected:
  Posted()
      : Served({.most_body_bytes = 1000,
                .most_connections = 4,
                .patience = std::chrono::milliseconds(300)}) {
    body_ = std::make_shared<const std::string>("small");
  }
};

TEST_F(Served, ARequestInPiecesIsAnsweredOnceItIsWhole) {
  for (const std::string& piece :
       {std::string("GE"), std::string("T /upd"), "ate HTTP/1.1\r\nConnection: close\r\n" + host(),
        std::string("\r")}) {
    send_text(piece);
    EXPECT_TRUE(paths_.empty());
  }
  send_text("\n");
  const std::string answer = received();
  EXPECT_EQ(paths_, std::vector<std::string>{"/update"});
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n"));
  EXPECT_EQ(answer.size() - answer.find("\r\n\r\n") - 4, body_->size());
}

TEST_F(Served, WithoutDescriptorsItWaitsAndThenTakesTheNext) {
  step();
  rlimit before{};
  getrlimit(RLIMIT_NOFILE, &before);
  const int waiting = connected();
  const int next = dup(client_);
  close(next);
  const rlimit none{static_cast<rlim_t>(next), before.rlim_max};
  setrlimit(RLIMIT_NOFILE, &none);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 4; ++i) step(20);
  // The first step finds out; the others wait as they are told to.
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(50));
  setrlimit(RLIMIT_NOFILE, &before);
  usleep(150'000);
  const std::string text = request("GET /");
  EXPECT_EQ(send(waiting, text.data(), text.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(text.size()));
  for (int i = 0; i < 5; ++i) step();
  EXPECT_EQ(paths_, std::vector<std::string>{"/"});
  close(waiting);
}

TEST_F(Served, HeadIsAnsweredWithoutABody) {
  send_text(request("HEAD /"));
  const std::string answer = received();
  EXPECT_NE(answer.find("Content-Length: 3000000\r\n"), std::string::npos);
  EXPECT_TRUE(answer.ends_with("\r\n\r\n"));
}

TEST_F(Served, AHeadThatIsTooLongIsRefusedBeforeItEnds) {
  send_text("GET / HTTP/1.1\r\n" + host() + "X: ");
  for (int i = 0; i < 3; ++i) send_text(std::string(HttpServer::kMaxHeadBytes / 2, 'y'));
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
  send_text(request("GET /"));
  EXPECT_TRUE(received().starts_with("HTTP/1.1 200 "));
}

TEST_F(Posted, TwoRequestsOnOneConnectionAreAnsweredInTurn) {
  const std::string post = request("POST /a", "Content-Length: 5\r\n");
  send_text(post + "12345" + post + "678");
  EXPECT_EQ(bodies_, std::vector<std::string>{"12345"});
  send_text("90" + request("GET /b"));
  const std::string text = received();
  EXPECT_EQ(bodies_, (std::vector<std::string>{"12345", "67890", ""}));
  EXPECT_EQ(paths_, (std::vector<std::string>{"/a", "/a", "/b"}));
  EXPECT_NE(text.find("Connection: keep-alive\r\n"), std::string::npos);
  EXPECT_TRUE(
      text.ends_with("Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options:"
                     " nosniff\r\nX-Frame-Options: DENY\r\nCross-Origin-Resource-Policy:"
                     " same-origin\r\nReferrer-Policy: no-referrer\r\n\r\nsmall"));
}

TEST_F(Posted, ABodyBeyondTheLimitIsRefusedAndTheAnswerArrives) {
  send_text(request("POST /a", "Content-Length: 1001\r\n") + std::string(1001, 'x'));
  EXPECT_TRUE(received().starts_with("HTTP/1.1 413 "));
  EXPECT_TRUE(paths_.empty());
}

TEST_F(Posted, AClientThatWaitsForContinueGetsIt) {
  send_text(request("POST /a", "Content-Length: 2\r\nExpect: 100-continue\r\n"));
  EXPECT_EQ(received(3), "HTTP/1.1 100 Continue\r\n\r\n");
  send_text("ab");
  EXPECT_TRUE(received(3).starts_with("HTTP/1.1 200 OK\r\n"));
}

TEST_F(Posted, AStreamComesInChunksAsItIsWritten) {
  send_text(request("GET /later"));
  reply_->begin_stream({.type = "text/event-stream"});
  reply_->write("data: 1\n\n");
  const std::string first = received(3);
  EXPECT_NE(first.find("Transfer-Encoding: chunked\r\n"), std::string::npos);
  EXPECT_EQ(first.find("Content-Length"), std::string::npos);
  EXPECT_TRUE(first.ends_with("\r\n\r\n9\r\ndata: 1\n\n\r\n"));
  reply_->write("0123456789abcdefg");
  reply_->finish();
  EXPECT_EQ(received(), "11\r\n0123456789abcdefg\r\n0\r\n\r\n");
}

TEST_F(Posted, AnOldClientGetsAStreamWithoutChunks) {
  send_text("GET /later HTTP/1.0\r\n" + host() + "\r\n");
  reply_->begin_stream({.type = "text/event-stream"});
  reply_->write("abc");
  reply_->finish();
  const std::string text = received();
  EXPECT_EQ(text.find("chunked"), std::string::npos);
  EXPECT_TRUE(text.ends_with("\r\n\r\nabc"));
}

TEST_F(Posted, TheReplyLearnsThatItsClientHasLeft) {
  send_text(request("GET /later"));
  EXPECT_FALSE(reply_->gone());
  close(client_);
  for (int i = 0; i < 3; ++i) step();
  EXPECT_TRUE(reply_->gone());
  reply_->write("nobody");
  reply_->finish();
  SetUp();
}

TEST_F(Posted, ClientsThatSendNoHeadAreDroppedAndTheOthersServed) {
  // One more than there is room for; the silent ones lose their place, the one in a head does not.
  send_text("GET / HT");
  std::vector<int> silent;
  for (int i = 0; i < 4; ++i) {
    silent.push_back(connected());
    step();
  }
  send_text("TP/1.1\r\n" + host() + "Connection: close\r\n\r\n");
  EXPECT_TRUE(received().starts_with("HTTP/1.1 200 "));
  // Slow ones are closed when the patience ends.
  close(client_);
  client_ = connected();
  send_text("GET / HT");
  EXPECT_EQ(received(100), "");
  char byte = 0;
  EXPECT_EQ(recv(client_, &byte, 1, MSG_DONTWAIT), 0);
  for (const int client : silent) close(client);
}

TEST_F(Posted, AfterClosingOnlyWhatIsInProgressGoesOn) {
  send_text(request("GET /later", ""));
  const int idle = connected();
  step();
  server_.close();
  EXPECT_FALSE(server_.idle());
  char byte = 0;
  EXPECT_EQ(recv(idle, &byte, 1, 0), 0);
  close(idle);
  reply_->send({.body = body_});
  EXPECT_TRUE(received().ends_with("small"));
  close(client_);
  for (int i = 0; i < 3; ++i) step();
  EXPECT_TRUE(server_.idle());
  client_ = socket(AF_INET, SOCK_STREAM, 0);
}

TEST(HttpServer, APortInUseIsAnErrorThatSaysWhatToDo) {
  const HttpServer first({});
  try {
    const HttpServer second({.port = first.port()});
    FAIL() << "two servers at one port";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::io);
    EXPECT_NE(std::string(error.what()).find("choose another --port"), std::string::npos);
  }
}

}  // namespace
}  // namespace osp
