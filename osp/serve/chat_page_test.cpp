#include "osp/serve/chat_page.h"

#include <gtest/gtest.h>

#include "osp/base/file.h"
#include "osp/http/content_policy.h"

namespace osp {
namespace {

std::string source_of(const std::string& name) {
  return read_file(OSP_SOURCE_DIR "/osp/serve/chat_page." + name);
}

TEST(ChatPage, HoldsTheStyleAndTheScriptByteForByte) {
  const std::string page = *chat_page_response().body;
  EXPECT_EQ(chat_page_html(), source_of("html"));
  EXPECT_NE(page.find("<style>" + source_of("css") + "</style>"), std::string::npos);
  EXPECT_NE(page.find("<script>" + source_of("js") + "</script>"), std::string::npos);
}

TEST(ChatPage, AllowsItsOwnScriptAndStyleAndNoOtherSource) {
  const std::string fields = chat_page_response().fields;
  EXPECT_TRUE(fields.starts_with("Content-Security-Policy: default-src 'none'; "));
  EXPECT_NE(fields.find("script-src " + content_hash(source_of("js")) + ";"), std::string::npos);
  EXPECT_NE(fields.find("style-src " + content_hash(source_of("css")) + ";"), std::string::npos);
  EXPECT_EQ(fields.find("unsafe"), std::string::npos);
  // The one address of the page is the icon's name space.
  const std::string page = *chat_page_response().body;
  EXPECT_EQ(page.find("//www.w3.org"), page.rfind("//www.w3.org"));
  EXPECT_EQ(page.find("https:"), std::string::npos);
  EXPECT_EQ(page.find("innerHTML"), std::string::npos);
}

}  // namespace
}  // namespace osp
