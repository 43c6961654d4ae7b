#include "osp/model/text_stream.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "osp/base/error.h"

namespace osp {
namespace {

// A byte-level decoder: token i is the byte i; a part of a character becomes one U+FFFD.
std::string decode_bytes(std::span<const int32_t> ids) {
  std::string out;
  for (size_t i = 0; i < ids.size();) {
    const int byte = ids[i];
    const size_t length = byte < 0x80    ? 1
                          : byte >= 0xF0 ? 4
                          : byte >= 0xE0 ? 3
                          : byte >= 0xC2 ? 2
                                         : 0;
    size_t n = length == 0 ? 0 : 1;
    while (n < length && i + n < ids.size() && (ids[i + n] & 0xC0) == 0x80) ++n;
    if (n == length && n > 0) {
      for (size_t j = 0; j < n; ++j) out += static_cast<char>(ids[i + j]);
    } else {
      out += "\xEF\xBF\xBD";
    }
    i += std::max<size_t>(n, 1);
  }
  return out;
}

// A byte-fallback decoder as SentencePiece's: if any part of the whole run is incomplete, every
// byte of it becomes U+FFFD; a leading space is dropped.
std::string decode_fallback(std::span<const int32_t> ids) {
  std::string text = decode_bytes(ids);
  if (text.find("\xEF\xBF\xBD") != std::string::npos) {
    text.clear();
    for (size_t i = 0; i < ids.size(); ++i) text += "\xEF\xBF\xBD";
  }
  if (text.starts_with(' ')) text.erase(0, 1);
  return text;
}

std::vector<int32_t> bytes_of(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

bool complete(const std::string& text) {
  return decode_bytes(bytes_of(text)) == text && text.find("\xEF\xBF\xBD") == std::string::npos;
}

std::vector<std::string> pieces_of(TextStream& stream, const std::string& text) {
  std::vector<std::string> pieces;
  for (const int32_t id : bytes_of(text)) {
    pieces.push_back(stream.add(id));
    if (stream.stopped()) return pieces;
  }
  pieces.push_back(stream.finish());
  return pieces;
}

std::string joined(const std::vector<std::string>& pieces) {
  std::string all;
  for (const std::string& piece : pieces) all += piece;
  return all;
}

std::string mixed_text() {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "a\xC3\xA9 \xE8\xAA\x9E\xF0\x9F\x98\x80.";
  return text;
}

TEST(TextStream, PiecesAreWholeCharactersAndAddUpToTheText) {
  const std::vector<int32_t> prompt = bytes_of("x");
  TextStream stream(decode_bytes, prompt, {});
  const auto pieces = pieces_of(stream, mixed_text());
  for (const std::string& piece : pieces) EXPECT_TRUE(complete(piece)) << piece;
  EXPECT_EQ(joined(pieces), mixed_text());
}

TEST(TextStream, ADecoderThatTakesBackTextDoesNotTearIt) {
  const std::vector<int32_t> prompt = bytes_of("x");
  TextStream stream(decode_fallback, prompt, {});
  const auto pieces = pieces_of(stream, mixed_text());
  for (const std::string& piece : pieces) EXPECT_TRUE(complete(piece)) << piece;
  EXPECT_EQ(joined(pieces), mixed_text());
}

TEST(TextStream, LeadingSpaceOfTheFirstTokenStays) {
  const std::vector<int32_t> prompt = bytes_of("x");
  TextStream stream(decode_fallback, prompt, {});
  EXPECT_EQ(joined(pieces_of(stream, " y")), " y");
}

TEST(TextStream, BytesThatAreNoTextBecomeReplacementCharacters) {
  const std::vector<int32_t> prompt = bytes_of("x");
  TextStream stream(decode_bytes, prompt, {});
  EXPECT_EQ(joined(pieces_of(stream,
                             "a\xFF\xFF\xFF\xFF\xFF"
                             "b\xE8\xAA")),
            decode_bytes(bytes_of("a\xFF\xFF\xFF\xFF\xFF"
                                  "b\xE8\xAA")));
}

TEST(TextStream, StopStringAcrossTokensIsNeverShown) {
  const std::vector<int32_t> prompt = bytes_of("Q: 1\n");
  TextStream stream(decode_bytes, prompt, {"\nQ:", "END"});
  EXPECT_EQ(joined(pieces_of(stream, "A: \nQueue EN\nQ: rest")), "A: \nQueue EN");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.add('x'), "");
}

TEST(TextStream, HeldBackBeginningOfAStopStringIsShownAtTheEnd) {
  const std::vector<int32_t> prompt = bytes_of("x");
  TextStream stream(decode_bytes, prompt, {"STOP"});
  EXPECT_EQ(joined(pieces_of(stream, "no STO")), "no STO");
  EXPECT_FALSE(stream.stopped());
}

TEST(TextStream, OverlappingBeginningsOfAStopStringAreFound) {
  const std::vector<int32_t> prompt = bytes_of("x");
  TextStream stream(decode_bytes, prompt, {"aab"});
  EXPECT_EQ(joined(pieces_of(stream, "aaaab")), "aa");
}

TEST(TextStream, StopStringInThePromptDoesNotCount) {
  const std::vector<int32_t> prompt = bytes_of("STO");
  TextStream stream(decode_bytes, prompt, {"STOP"});
  EXPECT_EQ(joined(pieces_of(stream, "P it")), "P it");
}

TEST(TextStream, EmptyStopStringIsAUsageError) {
  const std::vector<int32_t> prompt = bytes_of("x");
  EXPECT_THROW(TextStream(decode_bytes, prompt, {""}), Error);
}

}  // namespace
}  // namespace osp
