#include "osp/data/shards.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "osp/base/file.h"
#include "osp/base/sha256.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"
#include "osp/data/shards_writer.h"

namespace osp {
namespace {

ShardIndex example_index() {
  ShardIndex index;
  index.vocabulary = 300;
  index.end_of_document = 299;
  index.document_policy = "file";
  index.validation_fraction = 0.25;
  index.shard_tokens = 4;
  const std::string sha(64, 'a');
  index.splits["train"] = {.num_tokens = 7,
                           .num_documents = 2,
                           .shards = {{"train-00000.u16", 4, sha}, {"train-00001.u16", 3, sha}}};
  index.sources = {{"a.txt", 2, 20}};
  return index;
}

TEST(ShardIndex, WhatIsWrittenIsReadBack) {
  const Json json = shard_index_to_json(example_index());
  EXPECT_EQ(shard_index_to_json(parse_shard_index(json.dump(), "x")), json);
}

// Each case changes one thing of a good index; all must be refused with the file's name.
TEST(ShardIndex, DamagedIndexesAreRefused) {
  struct Case {
    const char* name;
    std::function<void(Json&)> damage;
    const char* said;
  };
  const Case cases[] = {
      {"no format", [](Json& j) { j.erase("format"); }, "format"},
      {"other format", [](Json& j) { j["format"] = "x"; }, "format"},
      {"dtype", [](Json& j) { j["dtype"] = "i8"; }, "dtype"},
      {"vocabulary 0", [](Json& j) { j["vocabulary"] = 0; }, "vocabulary"},
      {"vocabulary too large for u16", [](Json& j) { j["vocabulary"] = 65537; }, "vocabulary"},
      {"vocabulary of text", [](Json& j) { j["vocabulary"] = "300"; }, "vocabulary"},
      {"end of document beyond", [](Json& j) { j["end_of_document"] = 300; }, "end_of_document"},
      {"end of document negative", [](Json& j) { j["end_of_document"] = -2; }, "end_of_document"},
      {"no splits", [](Json& j) { j.erase("splits"); }, "splits"},
      {"splits a list", [](Json& j) { j["splits"] = Json::array(); }, "splits"},
      {"split a number", [](Json& j) { j["splits"]["train"] = 3; }, "train"},
      {"sum differs", [](Json& j) { j["splits"]["train"]["tokens"] = 8; }, "7"},
      {"negative count", [](Json& j) { j["splits"]["train"]["shards"][0]["tokens"] = -4; },
       "shard 0"},
      {"huge count",
       [](Json& j) { j["splits"]["train"]["shards"][0]["tokens"] = int64_t{1} << 62; }, "shard 0"},
      {"fraction count", [](Json& j) { j["splits"]["train"]["shards"][0]["tokens"] = 4.0; },
       "tokens"},
      {"path out of the folder",
       [](Json& j) { j["splits"]["train"]["shards"][0]["file"] = "../../etc/passwd"; },
       "file name"},
      {"hidden name", [](Json& j) { j["splits"]["train"]["shards"][0]["file"] = ".."; },
       "file name"},
      {"empty name", [](Json& j) { j["splits"]["train"]["shards"][0]["file"] = ""; }, "file name"},
      {"same file twice",
       [](Json& j) { j["splits"]["train"]["shards"][1]["file"] = "train-00000.u16"; }, "twice"},
      {"short hash", [](Json& j) { j["splits"]["train"]["shards"][0]["sha256"] = "abc"; },
       "sha256"},
      {"upper-case hash",
       [](Json& j) { j["splits"]["train"]["shards"][0]["sha256"] = std::string(64, 'A'); },
       "sha256"},
      {"source without path", [](Json& j) { j["sources"][0].erase("path"); }, "path"},
  };
  for (const Case& c : cases) {
    Json json = shard_index_to_json(example_index());
    c.damage(json);
    SCOPED_TRACE(c.name);
    const std::string message = message_of(
        ErrorCode::damaged, [&] { parse_shard_index(json.dump(), "folder/index.json"); });
    EXPECT_EQ(message.rfind("folder/index.json", 0), 0u) << message;
    EXPECT_NE(message.find(c.said), std::string::npos) << message;
  }
}

TEST(ShardIndex, AnotherVersionIsUnsupportedNotDamaged) {
  Json json = shard_index_to_json(example_index());
  json["version"] = 2;
  expect_error(ErrorCode::unsupported, {}, [&] { parse_shard_index(json.dump(), "x"); });
}

TEST(ShardSetWriter, CutsTheStreamIntoFilesOfShardTokens) {
  TestFolder folder;
  const std::string out = folder / "set";
  ShardSetWriter writer(out, {.vocabulary = 300, .shard_tokens = 4, .tokenizer_json = "{}"});
  const std::vector<int32_t> a = {1, 2, 3}, b = {256, 5, 6, 299, 8, 9};
  writer.append("train", a, 1);
  writer.append("train", b, 1);
  EXPECT_FALSE(path_exists(out));  // nothing at the final name before commit
  const ShardIndex index = writer.commit();
  ASSERT_EQ(index.splits.at("train").shards.size(), 3u);
  EXPECT_EQ(index.splits.at("train").num_tokens, 9u);
  EXPECT_EQ(index.splits.at("train").num_documents, 2u);
  EXPECT_EQ(read_file(out + "/train-00000.u16"), std::string("\1\0\2\0\3\0\0\1", 8));
  EXPECT_EQ(read_file(out + "/train-00002.u16"), std::string("\x9\0", 2));
  EXPECT_EQ(index.splits.at("train").shards[2].sha256, sha256_hex(std::string("\x9\0", 2)));
  EXPECT_EQ(read_file(out + "/tokenizer.json"), "{}");
  const ShardIndex stored = parse_shard_index(read_file(out + "/index.json"), "index.json");
  EXPECT_EQ(shard_index_to_json(stored), shard_index_to_json(index));
}

TEST(ShardSetWriter, WideVocabulariesTakeFourBytes) {
  TestFolder folder;
  const std::string out = folder / "set";
  ShardSetWriter writer(out, {.vocabulary = 65537});
  const std::vector<int32_t> ids = {65536};
  writer.append("train", ids, 1);
  writer.commit();
  EXPECT_EQ(read_file(out + "/train-00000.u32"), std::string("\0\0\1\0", 4));
}

TEST(ShardSetWriter, WithoutCommitNothingIsLeft) {
  TestFolder folder;
  {
    ShardSetWriter writer(folder / "set", {.vocabulary = 10});
    const std::vector<int32_t> ids = {1, 2};
    writer.append("train", ids, 1);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(ShardSetWriter, ReplacesOnlyShardSetsAndOnlyWhenAsked) {
  TestFolder folder;
  const std::string out = folder / "set";
  const std::vector<int32_t> ids = {1, 2};
  {
    ShardSetWriter writer(out, {.vocabulary = 10});
    writer.append("train", ids, 1);
    writer.commit();
  }
  EXPECT_THROW(ShardSetWriter(out, {.vocabulary = 10}), Error);
  {
    ShardSetWriter writer(out, {.vocabulary = 20, .overwrite = true});
    writer.append("train", ids, 1);
    EXPECT_EQ(parse_shard_index(read_file(out + "/index.json"), "x").vocabulary, 10);
    writer.commit();
  }
  EXPECT_EQ(parse_shard_index(read_file(out + "/index.json"), "x").vocabulary, 20);
  const std::string precious = folder / "precious";
  std::filesystem::create_directory(precious);
  std::ofstream(precious + "/thesis.txt") << "years of work";
  EXPECT_THROW(ShardSetWriter(precious, {.vocabulary = 10, .overwrite = true}), Error);
  EXPECT_TRUE(path_exists(precious + "/thesis.txt"));
}

}  // namespace
}  // namespace osp
