#include "osp/tokenizer/bpe.h"

#include <gtest/gtest.h>

#include <random>

#include "osp/base/test_error.h"
#include "osp/tokenizer/test_files.h"

namespace osp::tokenizer {
namespace {

std::vector<int32_t> encode(const Bpe& model, std::string_view word) {
  std::vector<int32_t> ids;
  model.encode(word, ids);
  return ids;
}

Bpe read(const SortedJson& model) { return Bpe(Component{model, "test.json: model"}); }

TEST(Bpe, LowestRankGoesFirstAndLeftmostAmongEqual) {
  const SortedJson model = test_model({"a", "b", "c"}, {"b c", "a b", "a a", "aa a"});
  const Bpe bpe = read(model);
  EXPECT_EQ(encode(bpe, "abc"), (std::vector<int32_t>{bpe.id("a"), bpe.id("bc")}));
  EXPECT_EQ(encode(bpe, "aaa"), (std::vector<int32_t>{bpe.id("aaa")}));
  EXPECT_EQ(encode(bpe, "aaaa"), (std::vector<int32_t>{bpe.id("aa"), bpe.id("aa")}));
}

// A random model: pairs of tokens that exist already.
SortedJson random_model(std::mt19937& random, int num_merges) {
  std::vector<std::string> tokens{"a", "b", "c", "d"};
  std::vector<std::string> merges;
  while (static_cast<int>(merges.size()) < num_merges) {
    const std::string left = tokens[random() % tokens.size()];
    const std::string right = tokens[random() % tokens.size()];
    if (left.size() + right.size() > 12) continue;
    merges.push_back(left + " " + right);
    tokens.push_back(left + right);
  }
  return test_model({"a", "b", "c", "d"}, merges);
}

TEST(Bpe, QueueEqualsScanOnRandomModels) {
  std::mt19937 random(5);
  for (int round = 0; round < 30; ++round) {
    const SortedJson model = random_model(random, 60);
    const Bpe bpe = read(model);
    for (const size_t size : {0u, 1u, 2u, 47u, 48u, 49u, 50u, 200u, 1000u}) {
      std::string word(size, ' ');
      for (char& c : word) c = static_cast<char>('a' + random() % (1 + round % 4));
      std::vector<int32_t> expected;
      bpe.encode_reference(word, expected);
      ASSERT_EQ(encode(bpe, word), expected) << model.dump() << "\n" << word;
    }
  }
}

TEST(Bpe, MergesAppendBehindWhatIsThere) {
  const SortedJson model = test_model({"a", "b"}, {"a b"});
  const Bpe bpe = read(model);
  std::vector<int32_t> ids{0};  // an "a" that must not merge with the next word
  bpe.encode("b", ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 1}));
}

TEST(Bpe, LaterDuplicateOfAMergeWins) {
  const SortedJson model = test_model({"a", "b", "c"}, {"a b", "b c", "a b"});
  const Bpe bpe = read(model);
  EXPECT_EQ(encode(bpe, "abc"), (std::vector<int32_t>{bpe.id("a"), bpe.id("bc")}));
}

TEST(Bpe, IdsMayHaveHoles) {
  SortedJson model = test_model({}, {});
  model["vocab"] = {{"a", 7}, {"b", 2147483646}, {"ab", 3}};
  model["merges"] = SortedJson::parse(R"([["a", "b"]])");
  const Bpe bpe = read(model);
  EXPECT_EQ(encode(bpe, "abb"), (std::vector<int32_t>{3, 2147483646}));
  EXPECT_EQ(bpe.largest_id(), 2147483646);
  EXPECT_EQ(bpe.token(4), nullptr);
}

TEST(Bpe, HostileModelsAreErrors) {
  const auto changed = [](const char* key, const char* json) {
    SortedJson model = test_model({"a", "b"}, {"a b"});
    model[key] = SortedJson::parse(json);
    return model;
  };
  const auto damaged = [&](const char* key, const char* json) {
    return message_of(ErrorCode::damaged, [&] { read(changed(key, json)); });
  };
  EXPECT_NE(damaged("merges", R"(["a c"])").find("\"c\""), std::string::npos);
  EXPECT_NE(damaged("merges", R"(["b a"])").find("\"ba\""), std::string::npos);
  for (const char* merges :
       {R"(["ab"])", R"(["a b c"])", R"([["a"]])", R"([1])", R"({})", "null"}) {
    EXPECT_NE(damaged("merges", merges).find("merges"), std::string::npos) << merges;
  }
  for (const char* vocabulary :
       {R"({"a": -1})", R"({"a": 2147483647})", R"({"a": 1e30})", R"({"a": 18446744073709551615})",
        R"({"a": "1"})", "[]", R"({"a": 1, "b": 1})"}) {
    EXPECT_NE(damaged("vocab", vocabulary).find("vocab"), std::string::npos) << vocabulary;
  }
  damaged("unk_token", R"("<unk>")");
  damaged("fuse_unk", "1");
  const auto unsupported = [&](const char* key, const char* json) {
    expect_error(ErrorCode::unsupported, {key}, [&] { read(changed(key, json)); });
  };
  unsupported("dropout", "0.1");
  unsupported("continuing_subword_prefix", R"("##")");
  unsupported("end_of_word_suffix", R"("</w>")");
}

TEST(Bpe, ByteModeEqualsTheByteAlphabet) {
  for (const bool ignore_merges : {false, true}) {
    SortedJson model = test_model(test_byte_alphabet(),
                                  {"\xC4\xA0 t", "h e", "\xC4\xA0t he", "\xC3\x83 \xC2\xA9"});
    model["ignore_merges"] = ignore_merges;
    model["vocab"]["ooo"] = 999;  // reached by ignore_merges alone
    const Bpe characters = read(model);
    Bpe bytes = read(model);
    ASSERT_TRUE(bytes.use_bytes());
    for (const std::string word : {" the", "caf\xC3\xA9", "ooo", "\xFF\x01", "oooo", " thethe"}) {
      EXPECT_EQ(encode(bytes, word), encode(characters, to_byte_alphabet(word))) << word;
    }
  }
}

TEST(Bpe, TextIsCutBeforeSpacesOnlyIfNothingCrosses) {
  const std::string mark = "\xE2\x96\x81";
  const auto may_cut = [&](std::vector<std::string> merges, const char* key, SortedJson value) {
    SortedJson model = test_model({"<unk>", "a", mark}, merges);
    model["unk_token"] = "<unk>";
    model[key] = value;
    return read(model).may_cut_before(mark);
  };
  EXPECT_TRUE(may_cut({mark + " a", mark + " " + mark}, "fuse_unk", true));
  EXPECT_FALSE(may_cut({"a " + mark}, "fuse_unk", true));
  EXPECT_FALSE(may_cut({mark + " a", mark + "a " + mark}, "fuse_unk", true));
  EXPECT_FALSE(may_cut({mark + " a"}, "ignore_merges", true));
  EXPECT_FALSE(may_cut({mark + " a"}, "unk_token", nullptr));
}

}  // namespace
}  // namespace osp::tokenizer
