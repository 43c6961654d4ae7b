// Heads of requests that are accepted and refused, and heads of answers.
#include "osp/http/http_message.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

const HttpRules kReader{.hosts = {"127.0.0.1:8123", "localhost:8123"}};
const HttpRules kPoster{.hosts = {"127.0.0.1:8123"}, .most_body_bytes = 100};
const std::string kHost = "Host: 127.0.0.1:8123";

HttpRequest parse(const std::string& line, const std::string& fields = kHost) {
  return parse_request(line + "\r\n" + fields, kReader);
}
HttpRequest post(const std::string& fields) {
  return parse_request("POST /v1/completions HTTP/1.1\r\n" + kHost + "\r\n" + fields, kPoster);
}

TEST(ParseRequest, TakesMethodPathAndHost) {
  const HttpRequest request =
      parse("GET /version HTTP/1.1", "Accept: */*\r\nhOsT:\tLOCALHOST:8123 ");
  EXPECT_EQ(request.refused, 0);
  EXPECT_EQ(request.method, "GET");
  EXPECT_EQ(request.path, "/version");
  EXPECT_EQ(request.host, "localhost:8123");
  EXPECT_TRUE(request.keep_alive && request.chunked);
  const HttpRequest old = parse("HEAD / HTTP/1.0");
  EXPECT_EQ(old.refused, 0);
  EXPECT_FALSE(old.keep_alive || old.chunked);
}

TEST(ParseRequest, RefusesWhatIsNoRequestLine) {
  for (const char* line :
       {"", " ", "GET", "GET /", "GET  / HTTP/1.1", "GET version HTTP/1.1", "GET / HTTP/2",
        "GET http://127.0.0.1:8123/ HTTP/1.1", "GET / FTP/1.1", "/ HTTP/1.1", "GET / HTTP/1.1 ",
        "GET /\x01 HTTP/1.1", "GET /a b HTTP/1.1", "GET /a\tb HTTP/1.1", "GET /\xc3\xa9 HTTP/1.1",
        "G\tT / HTTP/1.1"}) {
    EXPECT_EQ(parse(line).refused, 400) << line;
  }
}

TEST(ParseRequest, WantsExactlyOneHost) {
  EXPECT_EQ(parse("GET / HTTP/1.1", "Accept: */*").refused, 400);
  EXPECT_EQ(parse("GET / HTTP/1.1", kHost + "\r\n" + kHost).refused, 400);
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

TEST(ParseRequest, TakesABodyWithOneLength) {
  const HttpRequest request = post("content-length: 100\r\nAuthorization: Bearer x");
  EXPECT_EQ(request.refused, 0);
  EXPECT_EQ(request.body_bytes, 100u);
  EXPECT_EQ(request.authorization, "Bearer x");
  EXPECT_TRUE(post("Content-Length: 1\r\nExpect: 100-Continue").expects_continue);
}

TEST(ParseRequest, RefusesBodiesWhoseEndIsDoubtful) {
  EXPECT_EQ(post("Accept: */*").refused, 411);
  EXPECT_EQ(post("Transfer-Encoding: chunked").refused, 411);
  EXPECT_EQ(post("Transfer-Encoding: chunked\r\nContent-Length: 5").refused, 400);
  EXPECT_EQ(post("Content-Length: 5\r\nContent-Length: 5").refused, 400);
  EXPECT_EQ(post("Content-Length: 5\r\ncontent-length: 6").refused, 400);
  for (const char* length : {"", "-1", "+5", "5, 5", "0x5", "5 5", "9999999999999999999"}) {
    EXPECT_EQ(post(std::string("Content-Length: ") + length).refused, 400) << length;
  }
  EXPECT_EQ(post("Content-Length: 101").refused, 413);
  EXPECT_EQ(post("Content-Length: 5\r\nExpect: more").refused, 417);
  EXPECT_EQ(parse("GET / HTTP/1.1", kHost + "\r\nContent-Length: 5").refused, 400);
}

TEST(ParseRequest, RefusesFieldsThatProgramsReadDifferently) {
  for (const std::string& field :
       {std::string("Content-Length : 5"), std::string(" folded"), std::string("A B: 1"),
        std::string("X: 1\nContent-Length: 5"), std::string("X: \0", 4), std::string(": 1"),
        std::string("X: 1\rY: 2"), std::string("Authorization: a\r\nAuthorization: b")}) {
    EXPECT_EQ(post("Content-Length: 5\r\n" + field).refused, 400) << field;
  }
}

TEST(PercentDecoded, GivesBytesAndLeavesWhatIsNone) {
  EXPECT_EQ(percent_decoded("my%20model%c3%A9"), "my model\xc3\xa9");
  for (const char* other : {"", "%", "a%2", "%zz", "%-1", "% 1", "%0x"}) {
    EXPECT_EQ(percent_decoded(other), other);
  }
  EXPECT_EQ(percent_decoded("%00%"), std::string("\0%", 2));
}

TEST(ResponseHead, HasLengthAndNeitherCacheNorSniffing) {
  const std::string head =
      response_head({.status = 404, .body = std::make_shared<const std::string>("12345")}, {});
  EXPECT_TRUE(head.starts_with("HTTP/1.1 404 Not Found\r\n"));
  EXPECT_TRUE(head.ends_with("\r\n\r\n"));
  for (const char* field : {"Content-Length: 5\r\n", "Cache-Control: no-store\r\n",
                            "X-Content-Type-Options: nosniff\r\n", "Connection: close\r\n"}) {
    EXPECT_NE(head.find(field), std::string::npos) << field;
  }
}

}  // namespace
}  // namespace osp
