// The whole server on a model without weights, with clients in threads of their own: a place where
// the sanitizer of threads sees all of its threads. What the answers say is tested by
// tests/python/test_serve*.py.
#include "osp/serve/service.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <future>

#include "osp/serve/test_text_model.h"

namespace osp {
namespace {

// A client's connection.
class Client {
 public:
  explicit Client(int port) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    host_ = "Host: 127.0.0.1:" + std::to_string(port) + "\r\nConnection: close\r\n";
  }
  ~Client() { close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return connected_; }
  void post(const std::string& body) {
    write("POST /v1/completions HTTP/1.1\r\n" + host_ +
          "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
  }
  void get(const std::string& path) { write("GET " + path + " HTTP/1.1\r\n" + host_ + "\r\n"); }
  // What comes next, at least one byte unless the server closes.
  std::string some() {
    char buffer[1 << 12];
    const ssize_t count = recv(socket_, buffer, sizeof buffer, 0);
    return {buffer, static_cast<size_t>(std::max<ssize_t>(count, 0))};
  }
  std::string all() {
    std::string text;
    for (std::string piece = some(); !piece.empty(); piece = some()) text += piece;
    return text;
  }

 private:
  void write(const std::string& text) {
    EXPECT_EQ(send(socket_, text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  int socket_;
  bool connected_;
  std::string host_;
};

class Running : public testing::Test {
 protected:
  void SetUp() override {
    std::promise<std::string> address;
    thread_ = std::thread([&] {
      block_stop_signals();
      run_service(served_, texts_, {.most_pages = 64, .drawable = TestTextModel::kBroken},
                  {.serving = [&](const std::string& url) { address.set_value(url); }});
    });
    const std::string url = address.get_future().get();
    port_ = std::stoi(url.substr(url.rfind(':') + 1));
  }
  void TearDown() override {
    if (thread_.joinable()) stop();
  }
  void signal_stop() { pthread_kill(thread_.native_handle(), SIGTERM); }
  void stop() {
    signal_stop();
    thread_.join();
  }

  std::string answer(const std::string& body) {
    Client client(port_);
    client.post(body);
    return client.all();
  }
  int64_t metric(const std::string& name) {
    Client client(port_);
    client.get("/metrics");
    const std::string text = client.all();
    const size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? -1 : std::stoll(text.substr(at + name.size() + 2));
  }

  TestTextModel texts_;
  Tokenizer tokenizer_ = Tokenizer::from_file(OSP_SOURCE_DIR "/recipes/gcide-4096");
  ServedModel served_{.id = "m",
                      .context = 512,
                      .vocabulary = TestTextModel::kVocabulary,
                      .drawable = TestTextModel::kBroken,
                      .tokenizer = &tokenizer_};
  int port_ = 0;
  std::thread thread_;
};

std::string body(int i, int64_t tokens, bool stream) {
  return "{\"prompt\": [" + std::to_string(i % 12) +
         ", 5, 6], \"temperature\": 0, \"max_tokens\": " + std::to_string(tokens) +
         ", \"stream\": " + (stream ? "true" : "false") + "}";
}

// The written text of an answer in one piece.
std::string text_of(const std::string& answer) {
  const size_t begin = answer.find("\"choices\"");
  return begin == std::string::npos ? "none: " + answer
                                    : answer.substr(begin, answer.find("\"usage\"") - begin);
}

TEST_F(Running, ManyClientsGetWhatEachGetsAloneWhileOthersLeave) {
  constexpr int kClients = 6, kRequests = 8;
  std::vector<std::string> alone;
  for (int i = 0; i < kClients; ++i) alone.push_back(text_of(answer(body(i, 30, false))));
  std::vector<std::thread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < kRequests; ++i) {
        EXPECT_EQ(text_of(answer(body(c, 30, false))), alone[static_cast<size_t>(c)]);
        EXPECT_NE(answer(body(c, 30, true)).find("data: [DONE]"), std::string::npos);
        EXPECT_NE(answer("{\"prompt\": [5, 13]}").find("breaks this model"), std::string::npos);
        Client leaves(port_);
        leaves.post(body(c, 500, true));
        EXPECT_FALSE(leaves.some().empty());
      }
    });
  }
  for (std::thread& client : clients) client.join();
  for (int i = 0; i < 1000 && metric("osp_texts_active") != 0; ++i) usleep(10'000);
  EXPECT_EQ(metric("osp_texts_active"), 0);
  EXPECT_EQ(metric("osp_texts_failed_total"), kClients * kRequests);
  EXPECT_EQ(metric("osp_texts_waiting"), 0);
}

TEST_F(Running, ASignalFinishesWhatWasBegun) {
  std::string text;
  {
    Client client(port_);
    client.post(body(1, 500, true));
    text = client.some();
    signal_stop();
    text += client.all();
  }
  thread_.join();
  EXPECT_NE(text.find("\"finish_reason\":\"length\""), std::string::npos);
  EXPECT_NE(text.find("data: [DONE]"), std::string::npos);
  EXPECT_FALSE(Client(port_).connected());
}

}  // namespace
}  // namespace osp
