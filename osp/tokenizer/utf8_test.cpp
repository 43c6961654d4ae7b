#include "osp/tokenizer/utf8.h"

#include <gtest/gtest.h>

namespace osp::tokenizer {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

// "x" for each U+FFFD, so that expectations are readable.
std::string repaired(std::string_view text) {
  std::string out = replace_invalid_utf8(text);
  for (size_t at = out.find(kReplacement); at != std::string::npos; at = out.find(kReplacement)) {
    out.replace(at, 3, "x");
  }
  return out;
}

// Expected counts are those of Python's bytes.decode("utf-8", errors="replace").
TEST(Utf8, EachMaximalSubpartBecomesOneReplacement) {
  EXPECT_EQ(repaired("a\x80z"), "axz");
  EXPECT_EQ(repaired("\xC0\x80"), "xx");       // overlong
  EXPECT_EQ(repaired("\xE0\x80\x80"), "xxx");  // overlong: E0 alone, then two stray bytes
  EXPECT_EQ(repaired("\xE0\xA0z"), "xz");      // cut short
  EXPECT_EQ(repaired("\xED\xA0\x80"), "xxx");  // surrogate
  EXPECT_EQ(repaired("\xF0\x90\x80"), "x");    // cut short at the end
  EXPECT_EQ(repaired("\xF0\x80\x80\x80"), "xxxx");
  EXPECT_EQ(repaired("\xF4\x90\x80\x80"), "xxxx");  // beyond U+10FFFF
  EXPECT_EQ(repaired("\xF5\xFF"), "xx");
  EXPECT_EQ(repaired("\xE6\x97\xE6\x97\xA5"), "x\xE6\x97\xA5");
}

TEST(Utf8, ValidTextIsUnchanged) {
  const std::string text = "a\xC2\xA0\xE2\x96\x81\xF0\x9F\x98\x80 and more than eight bytes";
  EXPECT_EQ(valid_utf8_prefix(text), text.size());
  EXPECT_EQ(replace_invalid_utf8(text), text);
}

TEST(Utf8, ValidPrefixEndsAtTheFirstBadByteWhereverItIs) {
  for (size_t at = 0; at < 40; ++at) {
    std::string text(40, 'a');
    text[at] = '\xFF';
    EXPECT_EQ(valid_utf8_prefix(text), at);
  }
}

TEST(Utf8, EveryCharacterIsReadAsItWasWritten) {
  for (char32_t code = 0; code < 0x110000; code += code < 0x3000 ? 1 : 37) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_utf8(text, code);
    const char* p = text.data();
    ASSERT_EQ(next_character(p), code);
    ASSERT_EQ(p, text.data() + text.size());
    ASSERT_EQ(last_character("z" + text), code);
  }
}

TEST(Utf8, ClassesKnowUnicode16) {
  EXPECT_TRUE(is_letter(0x105C0));  // Todhri, Unicode 16
  EXPECT_TRUE(is_letter(0x2EBF0));  // CJK extension I, Unicode 15.1
  EXPECT_TRUE(is_letter(0x2EE5D));
  EXPECT_FALSE(is_letter(0x2EE5E));  // behind it
  EXPECT_FALSE(is_letter(0x105BF));
  EXPECT_TRUE(is_number(0x10D40));  // Garay digit, Unicode 16
  EXPECT_TRUE(is_number(0xBD));     // one half
  EXPECT_FALSE(is_letter(0x378));   // unassigned still
  EXPECT_TRUE(is_space(0x85));
  EXPECT_FALSE(is_space(0x180E));  // no white space since Unicode 6.3
  EXPECT_FALSE(is_space(0x200B));
  EXPECT_TRUE(is_word('_'));
  EXPECT_TRUE(is_word(0x301));
  EXPECT_FALSE(is_word('-'));
}

TEST(Utf8, ByteAlphabetIsABijection) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) {
    all.push_back(static_cast<char>(byte));
    EXPECT_EQ(byte_of_character(byte_character(static_cast<uint8_t>(byte))), byte);
  }
  EXPECT_EQ(byte_character(' '), char32_t{0x120});  // GPT-2 writes a space as U+0120
  EXPECT_EQ(byte_character('\n'), char32_t{0x10A});
  EXPECT_EQ(byte_character(0xAD), char32_t{0x143});
  std::string back;
  EXPECT_TRUE(append_from_byte_alphabet(to_byte_alphabet(all), back));
  EXPECT_EQ(back, all);
}

TEST(Utf8, CharactersOutsideTheByteAlphabetLeaveTheOutputAlone) {
  std::string out = "kept";
  EXPECT_FALSE(append_from_byte_alphabet("ab c", out));
  EXPECT_FALSE(append_from_byte_alphabet("\xE2\x96\x81", out));
  EXPECT_EQ(out, "kept");
}

}  // namespace
}  // namespace osp::tokenizer
