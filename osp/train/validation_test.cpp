// Validation: the loss it reports, and the text of the token it names.
#include "osp/train/validation.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "osp/tokenizer/test_files.h"
#include "osp/train/metrics_log.h"
#include "osp/train/test_run.h"

namespace osp {
namespace {

struct Validation : ::testing::Test {
  TestFolder folder;
  std::string shards = folder / "tokens";
  void SetUp() override { write_test_shards(shards); }
};

TEST_F(Validation, MeasuringOutliersDoesNotChangeTheLoss) {
  const TokenDataset data = TokenDataset::open(shards, "validation");
  for (const bool document_mask : {false, true}) {
    Recipe recipe = resolved_test_recipe(shards);
    recipe.data.document_mask = document_mask;
    recipe.train.validation_tokens = 7 * recipe.model.context;
    recipe.train.micro_batch_sequences = 3;
    const auto state = make_state(recipe);
    const Batch slice = read_validation(recipe, data);
    const Json measured = validate(*state, slice, nullptr);
    EXPECT_EQ(measured["loss"].get<double>(), validation_loss(*state, slice)) << document_mask;
  }
}

TEST_F(Validation, ATokenThatIsPartOfACharacterShowsAsTheReplacementCharacter) {
  using tokenizer::SortedJson;
  SortedJson file =
      tokenizer::test_file(tokenizer::test_model(tokenizer::test_byte_alphabet(), {}));
  file["decoder"] = SortedJson::parse(R"({"type": "ByteLevel"})");
  const Tokenizer bytes = Tokenizer::from_json(file.dump(), "test.json");
  const int32_t lead = 0xC3;  // the first of two bytes
  ASSERT_EQ(bytes.decode({&lead, 1}), "\xC3");
  const auto state = make_state(resolved_recipe(test_recipe(shards), bytes.vocabulary()));
  Batch slice;
  slice.tokens.assign(size_t(state->recipe.model.context), lead);
  slice.targets = slice.tokens;
  const Json measured = validate(*state, slice, &bytes);
  EXPECT_EQ(measured["largest_activation"]["token"], "\xEF\xBF\xBD");
  EXPECT_NO_THROW(measured.dump());  // strict about UTF-8
  MetricsLog log(folder / "metrics.jsonl", 0);
  log.add(measured);
  log.sync();
  const std::string line = read_file(folder / "metrics.jsonl");
  EXPECT_EQ(parse_json(line, "metrics.jsonl")["largest_activation"]["token"], "\xEF\xBF\xBD");
}

}  // namespace
}  // namespace osp
