#include "osp/report/html.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

TEST(EscapeHtml, LeavesNoMarkupNoQuotesNoControls) {
  EXPECT_EQ(escape_html("<script>alert('x' && \"y\")</script>"),
            "&lt;script&gt;alert(&#39;x&#39; &amp;&amp; &quot;y&quot;)&lt;/script&gt;");
  EXPECT_EQ(escape_html(std::string("a\0b\x1b[31m\tc\nd\x7f", 13)),
            "a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD[31m\tc\nd\xEF\xBF\xBD");
  EXPECT_EQ(escape_html("größer — 東京"), "größer — 東京");
}

TEST(JsonForScript, CannotEndTheScriptAndParsesBackEqual) {
  const Json value = {{"</script><!--", "<script>&amp;\xE2\x80\xA8\xE2\x80\xA9]]>"}, {"n", 0.25}};
  const std::string text = json_for_script(value);
  EXPECT_EQ(text.find_first_of("<>&"), std::string::npos) << text;
  EXPECT_EQ(text.find("\xE2\x80"), std::string::npos) << text;
  EXPECT_EQ(parse_json(text, "page"), value);
}

TEST(Shorten, NeverCutsACharacter) {
  EXPECT_EQ(shorten("short", 5), "short");
  EXPECT_EQ(shorten("abcdef", 3), "abc…");
  EXPECT_EQ(shorten("aé", 2), "a…");  // é is two bytes: the cut would fall inside it
  EXPECT_EQ(shorten("東京", 3), "東…");
}

TEST(RenderTable, EscapesCellsAndCaption) {
  const std::string html = render_table({{"<h>"}, {{"<r>", "<c>"}}}, "\"<cap>");
  EXPECT_EQ(html.find("<h>"), std::string::npos);
  EXPECT_EQ(html.find("<r>"), std::string::npos);
  EXPECT_EQ(html.find("<c>"), std::string::npos);
  EXPECT_NE(html.find("aria-label=\"&quot;&lt;cap&gt;\""), std::string::npos);
  EXPECT_NE(html.find("<th scope=\"row\">&lt;r&gt;</th><td>&lt;c&gt;</td>"), std::string::npos);
}

}  // namespace
}  // namespace osp
