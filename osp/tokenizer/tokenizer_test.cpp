#include "osp/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <thread>

#include "osp/base/sha256.h"
#include "osp/base/test_error.h"
#include "osp/tokenizer/test_files.h"

namespace osp {
namespace {

using tokenizer::SortedJson;
using Ids = std::vector<int32_t>;

const std::string kGcide = std::string(OSP_SOURCE_DIR) + "/recipes/gcide-4096";

// Byte-level, with " the" and a special token; token i < 256 is byte i.
SortedJson byte_level_file() {
  SortedJson file = tokenizer::test_file(tokenizer::test_model(
      tokenizer::test_byte_alphabet(), {"\xC4\xA0 t", "h e", "\xC4\xA0t he"}));
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  file["decoder"] = {{"type", "ByteLevel"}};
  file["added_tokens"].push_back({{"content", "<|endoftext|>"}, {"id", 300}, {"special", true}});
  return file;
}

Tokenizer read(const SortedJson& file) { return Tokenizer::from_json(file.dump(), "test.json"); }

TEST(Tokenizer, EncodesWordsAndSpecialTokens) {
  const Tokenizer tokenizer = read(byte_level_file());
  EXPECT_EQ(tokenizer.encode("a the<|endoftext|>he"), (Ids{'a', 258, 300, 257}));
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.vocabulary(), 301);
  EXPECT_EQ(tokenizer.token_id("<|endoftext|>"), 300);
  EXPECT_EQ(tokenizer.token_id("nothing"), -1);
  EXPECT_EQ(tokenizer.end_of_document(), 300);
}

TEST(Tokenizer, InvalidUtf8IsEncodedAsReplacements) {
  const Tokenizer tokenizer = read(byte_level_file());
  EXPECT_EQ(tokenizer.encode("a\xF0\x90\xFF"), tokenizer.encode("a\xEF\xBF\xBD\xEF\xBF\xBD"));
}

TEST(Tokenizer, DecodingSkipsUnknownIdsAndOnRequestSpecialTokens) {
  const Tokenizer tokenizer = read(byte_level_file());
  const Ids ids{'a', 299, -1, 300, 258, 1 << 30};
  EXPECT_EQ(tokenizer.decode(ids), "a<|endoftext|> the");
  EXPECT_EQ(tokenizer.decode(ids, true), "a the");
  EXPECT_EQ(tokenizer.token_text(258), " the");
  EXPECT_EQ(tokenizer.token_text(299), "");
}

// The message of from_json about `json`, which it must refuse.
std::string refusal(const std::string& json, ErrorCode expected) {
  return message_of(expected, [&] { Tokenizer::from_json(json, "test.json"); });
}

TEST(Tokenizer, TheFileIsStrictJson) {
  const std::string good = byte_level_file().dump();
  EXPECT_NO_THROW(Tokenizer::from_json(good, "test.json"));
  for (const std::string& bad :
       {"\xEF\xBB\xBF" + good, good + std::string(1, '\0') + "garbage", good + "x", std::string(),
        R"({"decoder": null, )" + good.substr(1), "[" + good + "]", std::string(100000, '[')}) {
    EXPECT_NE(refusal(bad, ErrorCode::damaged), "") << bad.substr(0, 40);
  }
}

TEST(Tokenizer, MessagesQuoteTheFileShortlyAndEscaped) {
  const std::string name = "\x1B[31m" + std::string(100000, 'x');
  SortedJson type = byte_level_file(), merge = type, token = type, missing = type;
  type["normalizer"] = {{"type", name}};
  merge["model"]["merges"].push_back(name + " a");
  token["model"]["vocab"][name] = name;
  missing["post_processor"] = SortedJson::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {}}], "special_tokens": {}})");
  missing["post_processor"]["single"][0]["SpecialToken"]["id"] = name;
  for (const SortedJson& file : {merge, token, missing}) {
    const std::string message = refusal(file.dump(), ErrorCode::damaged);
    EXPECT_NE(message.find("\\x1b[31mx"), std::string::npos) << message.substr(0, 300);
    EXPECT_LT(message.size(), 300u);
  }
  EXPECT_LT(refusal(type.dump(), ErrorCode::unsupported).size(), 300u);
  EXPECT_LT(refusal("{" + name, ErrorCode::damaged).size(), 300u);
}

TEST(Tokenizer, ATemplateHoldsTheTextAtMostOnce) {
  SortedJson file = byte_level_file();
  file["post_processor"] = SortedJson::parse(R"({"type": "TemplateProcessing",
      "single": [{"Sequence": {"id": "A"}}, {"Sequence": {"id": "A"}}], "special_tokens": {}})");
  EXPECT_NE(refusal(file.dump(), ErrorCode::unsupported).find("more than once"), std::string::npos);
  file["post_processor"]["single"][1]["Sequence"]["id"] = "B";
  EXPECT_NE(refusal(file.dump(), ErrorCode::damaged), "");
}

TEST(Tokenizer, AnAddedTokenThatNormalizationMakesLongIsRefused) {
  SortedJson file = byte_level_file();
  file["normalizer"] = {{"type", "Prepend"}, {"prepend", std::string(5000, 'x')}};
  file["added_tokens"][0]["normalized"] = true;
  EXPECT_NE(refusal(file.dump(), ErrorCode::unsupported).find("added_tokens[0]"),
            std::string::npos);
}

TEST(Tokenizer, TemplatesApplyOnlyOnRequestAndToTheirTextAlone) {
  SortedJson file = byte_level_file();
  file["post_processor"] = SortedJson::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<e>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
      "pair": [], "special_tokens": {"<e>": {"id": "<e>", "ids": [300], "tokens": ["<e>"]}}})");
  const Tokenizer tokenizer = read(file);
  Ids ids{7};
  tokenizer.encode_append("a", {.add_special_tokens = true}, ids);
  tokenizer.encode_append("b", {}, ids);
  EXPECT_EQ(ids, (Ids{7, 300, 'a', 'b'}));
}

TEST(Tokenizer, KeepsTheTextThatItWasReadFrom) {
  const std::string json = byte_level_file().dump(2);
  const Tokenizer tokenizer = Tokenizer::from_json(json, "test.json");
  EXPECT_EQ(tokenizer.json(), json);
  EXPECT_EQ(tokenizer.hash(), sha256_hex(json));
}

TEST(Tokenizer, EveryByteOfTheShippedVocabularyComesBack) {
  const Tokenizer tokenizer = Tokenizer::from_file(kGcide);
  EXPECT_EQ(tokenizer.vocabulary(), 4096);
  EXPECT_EQ(tokenizer.end_of_document(), 0);
  std::string text = "A word, it's 12 o'clock.\n\n  <|endoftext|>";
  for (char32_t code = 0; code < 0x110000; code += code < 0x3000 ? 1 : 97) {
    if (code < 0xD800 || code >= 0xE000) tokenizer::append_utf8(text, code);
  }
  const Ids ids = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.decode(ids), text);
  std::string streamed;
  for (const int32_t id : ids) streamed += tokenizer.token_text(id);
  EXPECT_EQ(streamed, text);
}

TEST(Tokenizer, ThreadsAndSeveralTokenizersInOneThreadAgree) {
  const Tokenizer one = Tokenizer::from_file(kGcide);
  const Tokenizer two = read(byte_level_file());
  const std::string text = "the theory of the thing, 1913";
  const Ids ids_one = one.encode(text);
  const Ids ids_two = two.encode(text);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i)
        count += (one.encode(text) != ids_one) + (two.encode(text) != ids_two);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(Tokenizer, WordsLongerThanTheCacheKeepTheirIds) {
  const Tokenizer tokenizer = Tokenizer::from_file(kGcide);
  for (size_t size = 1; size < 80; ++size) {
    const std::string word(size, 'x');
    const Ids first = tokenizer.encode(word);
    EXPECT_EQ(tokenizer.encode(word), first);
    EXPECT_EQ(tokenizer.decode(first), word);
  }
}

TEST(Tokenizer, AMebibyteOfOneCharacterTakesBoundedTime) {
  const Tokenizer tokenizer = Tokenizer::from_file(kGcide);
  for (const char c : {'a', ' ', '\n', '9', '-', '\'', '<', '\xFF'}) {
    const std::string text(1 << 20, c);
    const std::clock_t start = std::clock();  // processor time: independent of other load
    const Ids ids = tokenizer.encode(text);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_LT(seconds, 20) << c;  // 0.5 s when idle; a quadratic way would take hours
    const std::string back = tokenizer.decode(ids);
    EXPECT_TRUE(c == '\xFF' || back == text) << c;
  }
}

TEST(Tokenizer, DamagedFilesAreErrorsThatNameThem) {
  const std::string deep =
      R"({"model": )" + std::string(100000, '[') + std::string(100000, ']') + "}";
  for (const std::string& json :
       {std::string(), std::string("[]"), std::string("{"), std::string("{}"),
        std::string(R"({"model": null})"), std::string("{\"a\": \"\xFF\"}"),
        std::string(R"({"model": {"type": "BPE"}})"), deep}) {
    const std::string message = refusal(json, ErrorCode::damaged);
    EXPECT_TRUE(message.starts_with("test.json")) << message.substr(0, 200);
  }
}

TEST(Tokenizer, UnknownModelIsNamed) {
  SortedJson file = byte_level_file();
  file["model"]["type"] = "Unigram";
  expect_error(ErrorCode::unsupported, {"\"Unigram\""}, [&] { read(file); });
}

TEST(Tokenizer, MissingFileNamesItsPath) {
  EXPECT_THROW(Tokenizer::from_file("/nonexistent/tokenizer.json"), Error);
}

}  // namespace
}  // namespace osp
