#include "osp/data/document_split.h"

#include <gtest/gtest.h>

#include <vector>

#include "osp/base/error.h"

namespace osp {
namespace {

using Documents = std::vector<std::string>;

Documents split(const DocumentPolicy& policy, std::string_view text, size_t piece_bytes) {
  Documents documents;
  DocumentSplitter splitter(policy, [&](std::string_view d) { documents.emplace_back(d); });
  for (size_t i = 0; i < text.size(); i += piece_bytes) splitter.feed(text.substr(i, piece_bytes));
  splitter.finish();
  return documents;
}

TEST(DocumentSplitter, CutsByEachPolicyHoweverTheTextArrives) {
  struct Case {
    const char* name;
    DocumentPolicy policy;
    std::string text;
    Documents expected;
  };
  const DocumentPolicy file = parse_document_policy("file", "");
  const DocumentPolicy lines = parse_document_policy("lines", "");
  const DocumentPolicy paragraphs = parse_document_policy("paragraphs", "");
  const DocumentPolicy entries = parse_document_policy("entries", "");
  const DocumentPolicy separator = parse_document_policy("file", "<e>\\n");
  const Case cases[] = {
      {"file as it is", file, "\n a\r\n\nb\n\n", {"\n a\r\n\nb\n\n"}},
      {"empty file", file, "", {}},
      {"lines", lines, "a\n\n  b \r\n\t\nc", {"a", "  b ", "c"}},
      {"lines of CRLF", lines, "a\r\nb\r\n", {"a", "b"}},
      {"paragraphs", paragraphs, "\n\na\n b\n\n  \nc\n\n\n d", {"a\n b", "c", " d"}},
      {"paragraphs, CRLF", paragraphs, "a\r\nb\r\n\r\nc\r\n", {"a\r\nb", "c"}},
      {"entries keep their indented paragraphs",
       entries,
       "\n\nAback \\A*back\\\n   1. Behind.\n\n   2. Backwards.\n\nAbacus\n   A frame.\n\n\n",
       {"Aback \\A*back\\\n   1. Behind.\n\n   2. Backwards.", "Abacus\n   A frame."}},
      {"an unindented line inside an entry does not begin one",
       entries,
       "A\n  b\nC\n\n\tD\n",
       {"A\n  b\nC\n\n\tD"}},
      {"an indented beginning belongs to the first document", entries, "  a\n\nB\n", {"  a", "B"}},
      {"nothing but blank lines", entries, "\n \n\n", {}},
      {"separator", separator, "a<e>\n\n b<e>\n<e>\nc<e", {"a", "\n b", "", "c<e"}},
      {"separator at the end", separator, "a<e>\n", {"a"}},
      {"separator that overlaps itself",
       parse_document_policy("file", "\\x61a"),
       "xaaaay",
       {"x", "", "y"}},
  };
  for (const Case& c : cases) {
    for (size_t piece = 1; piece <= c.text.size() + 1; ++piece) {
      EXPECT_EQ(split(c.policy, c.text, piece), c.expected) << c.name << " in pieces of " << piece;
    }
  }
}

TEST(DocumentPolicy, UnknownNamesAndEscapesAreUsageErrors) {
  EXPECT_THROW(parse_document_policy("chapters", ""), Error);
  for (const char* separator : {"\\q", "\\", "\\x1", "\\xzz"}) {
    EXPECT_THROW(parse_document_policy("file", separator), Error) << separator;
  }
  EXPECT_EQ(parse_document_policy("lines", "\\n\\r\\t\\\\\\x7F").separator, "\n\r\t\\\x7F");
}

TEST(HeldOut, DependsOnTheBytesAloneAndGrowsWithTheFraction) {
  EXPECT_FALSE(is_held_out("a", 0.0));
  EXPECT_TRUE(is_held_out("a", 1.0));
  // SHA-256("abc") begins ba7816bf…: 0xba7816bf / 2^32 = 0.728395...
  EXPECT_FALSE(is_held_out("abc", 0.7283));
  EXPECT_TRUE(is_held_out("abc", 0.7284));
}

TEST(HeldOut, TheShareComesOutAsAsked) {
  int held_out = 0;
  for (int i = 0; i < 20000; ++i) held_out += is_held_out("document " + std::to_string(i), 0.1);
  // 2000 expected with a standard deviation of 42; six of them either way.
  EXPECT_NEAR(held_out, 2000, 255);
}

}  // namespace
}  // namespace osp
