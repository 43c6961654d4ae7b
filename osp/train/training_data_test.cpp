// The data of a run: sources that fit together, those that do not, and what a run takes of each.
#include "osp/train/training_data.h"

#include <gtest/gtest.h>

#include "osp/base/test_error.h"
#include "osp/train/loop.h"
#include "osp/train/metrics_log.h"
#include "osp/train/test_run.h"
#include "osp/train/validation.h"

namespace osp {
namespace {

// A set of `count` tokens whose tokenizer and vocabulary are given.
std::string write_source(const TestFolder& folder, const std::string& name, int64_t count,
                         const std::string& tokenizer = "", int64_t vocabulary = 64) {
  ShardSetWriter writer(
      folder / name, {.vocabulary = vocabulary, .end_of_document = 0, .tokenizer_json = tokenizer});
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i % 50 + 1);
  writer.append("train", ids, 1);
  writer.append("validation", ids, 1);
  writer.commit();
  return folder / name;
}

struct Sources : ::testing::Test {
  TestFolder folder;
  Recipe recipe = test_recipe("");

  void SetUp() override {
    write_test_shards(folder / "words");
    write_source(folder, "numbers", 200);
    recipe.data.sources = {{.name = "", .path = folder / "words/", .weight = 3},
                           {.name = "", .path = folder / "numbers", .weight = 1}};
  }
};

TEST_F(Sources, NamesAreThoseOfTheirFolders) {
  const auto sources = sources_of(recipe.data);
  EXPECT_EQ(sources[0].name, "words");
  EXPECT_EQ(sources[1].name, "numbers");
  EXPECT_EQ(resolved_recipe(recipe, 64).data.sources[1].name, "numbers");
}

TEST_F(Sources, OneSourceTrainsAsItsPathDoes) {
  Recipe alone = recipe;
  alone.data.sources.pop_back();
  Recipe path = recipe;
  path.data.sources.clear();
  path.data.path = folder / "words";
  const TrainingData one(alone.data, true), other(path.data, true);
  EXPECT_EQ(one.fingerprint(), other.fingerprint());
  const BatchPlan plan{.seed = 1, .context = 16, .sequences_per_step = 4};
  EXPECT_EQ(read_batch(one.train, plan, 9, 0, 4, true).tokens,
            read_batch(other.train, plan, 9, 0, 4, true).tokens);
}

TEST_F(Sources, WhatARunTakesOfEachIsCounted) {
  const Recipe complete = resolved_recipe(recipe, 64);
  const Json described = describe_sources(TrainingData(complete.data, false), complete);
  ASSERT_EQ(described.size(), 2u);
  EXPECT_EQ(described[0]["share"], 0.75);
  EXPECT_EQ(described[1]["tokens"], 200);
  // 6 steps of 4 sequences of 16 tokens; 12 windows of the smaller source.
  const auto taken = described[1]["tokens_taken"].get<double>();
  EXPECT_EQ(described[0]["tokens_taken"].get<double>() + taken, 6 * 64);
  EXPECT_EQ(described[1]["epochs"].get<double>(), taken / 16 / 12);
  EXPECT_NE(sources_text(described).find("numbers, 25.0 % of the sequences"), std::string::npos);
}

TEST_F(Sources, TheValidationSliceHasEachSourcesShareAndItsLoss) {
  recipe.train.validation_tokens = 8 * 16;
  const Recipe complete = resolved_recipe(recipe, 64);
  TrainingData data(complete.data, true);
  data.check(complete);
  const Batch& slice = data.validation_slice;
  ASSERT_EQ(slice.parts.size(), 2u);
  EXPECT_EQ(slice.parts[0].count, 6);
  EXPECT_EQ(slice.parts[1].first, 6);
  EXPECT_EQ(slice.parts[1].count, 2);
  const auto state = make_state(complete);
  const Json measured = validate(*state, slice, nullptr);
  double sum = 0;
  for (const char* name : {"words", "numbers"}) {
    const Json& source = measured["sources"][name];
    sum += source["loss"].get<double>() * source["tokens"].get<double>();
  }
  EXPECT_NEAR(sum / (8 * 16), measured["loss"].get<double>(), 1e-6);  // fp32 sums of other batches
  EXPECT_NE(measured["sources"]["words"]["loss"], measured["sources"]["numbers"]["loss"]);
}

TEST_F(Sources, WhatDoesNotFitTogetherIsRefusedByName) {
  const auto refused = [&](const std::vector<std::string>& parts, const DataSource& second) {
    Recipe other = recipe;
    other.data.sources[1] = second;
    expect_error(ErrorCode::usage, parts, [&] {
      TrainingData data(other.data, false);
      data.check(resolved_recipe(other, data.vocabulary()));
    });
  };
  const std::string json = R"({"model": {"type": "BPE", "vocab": {"a": 1}, "merges": []}})";
  refused({"words", "numbers", "vocabularies of 64 and 65"},
          {.name = "", .path = write_source(folder, "v/numbers", 200, "", 65)});
  refused({"words", "numbers", "tokenizer.json"},
          {.name = "", .path = write_source(folder, "t/numbers", 200, json)});
  refused({"data.source numbers has 12 tokens", "sequence of 16"},
          {.name = "", .path = write_source(folder, "s/numbers", 12)});
  refused({"data.source numbers", "weight = 0"},
          {.name = "", .path = folder / "numbers", .weight = 0});
  refused({"data.source 2", "words", "its own name"},
          {.name = "words", .path = folder / "numbers"});
  refused({"data.source 2", "path is missing"}, {.name = "x", .path = ""});
  recipe.data.path = folder / "words";
  expect_error(ErrorCode::usage, {"data.path", "[[data.source]]", "both"},
               [&] { TrainingData(recipe.data, false); });
}

TEST_F(Sources, AMovedFolderIsTheSameRecipeAndAnotherWeightIsNot) {
  const Recipe complete = resolved_recipe(recipe, 64);
  Recipe moved = complete;
  moved.data.sources[0].path = "elsewhere/words";
  EXPECT_EQ(recipe_differences(as_written(recipe_json(complete)), moved), "");
  EXPECT_EQ(recipe_hash(complete), recipe_hash(moved));
  moved.data.sources[0].weight = 2;
  EXPECT_NE(recipe_differences(as_written(recipe_json(complete)), moved).find("data.source"),
            std::string::npos);
  EXPECT_NE(recipe_hash(complete), recipe_hash(moved));
}

TEST_F(Sources, ARecipeListsThemAsTables) {
  const std::string path =
      folder.write("mixed.toml",
                   "[data]\ndocument_mask = true\n"
                   "[[data.source]]\npath = \"a/wiki\"\nweight = 0.7\n"
                   "[[data.source]]\npath = \"a/code\"\nweight = 1\nname = \"c\"\n");
  const Recipe read = load_recipe(path, {});
  ASSERT_EQ(read.data.sources.size(), 2u);
  EXPECT_EQ(read.data.sources[0].path, "a/wiki");
  EXPECT_EQ(read.data.sources[0].weight, 0.7);
  EXPECT_EQ(read.data.sources[1].name, "c");
  const Recipe set = load_recipe(path, {R"(data.source=[{"path": "b", "weight": 2}])"});
  ASSERT_EQ(set.data.sources.size(), 1u);
  EXPECT_EQ(set.data.sources[0].path, "b");
  const auto refused = [&](const std::string& lines, const std::vector<std::string>& parts) {
    const std::string wrong = folder.write("wrong.toml", lines);
    expect_error(ErrorCode::usage, parts, [&] { load_recipe(wrong, {}); });
  };
  refused("[[data.source]]\npaht = \"a\"\n", {"wrong.toml:1", "data.source 1", "paht", "path"});
  refused("[[data.source]]\npath = \"a\"\n[[data.source]]\npath = \"b\"\nwieght = 1\n",
          {"wrong.toml:3", "data.source 2", "wieght", "weight"});
  refused("[[data.source]]\nweight = \"a\"\n", {"data.source 1", "weight", "a number"});
  refused("[[data.source]]\nweight = nan\n", {"data.source 1", "weight", "a number"});
  refused("[data]\nsource = \"a\"\n", {"[[data.source]]"});
  refused("[data]\nsource = [\"a\"]\n", {"data.source", "an array"});
  refused("[[data.path]]\na = 1\n", {"data.path", "expected a string"});
}

}  // namespace
}  // namespace osp
