#include "osp/model/model_dir.h"

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "osp/base/file.h"
#include "osp/base/test_error.h"

namespace osp {
namespace {

namespace fs = std::filesystem;

class ModelDir : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = (fs::temp_directory_path() / fmt::format("osp_model_dir_test_{}", getpid())).string();
    fs::remove_all(folder_);
    ModelConfig config;
    config.layers = 2;
    config.width = 32;
    config.heads = 4;
    config.inner = 48;
    config.vocabulary = 64;
    config.context = 32;
    store_ = make_parameters(resolved_config(config), {});
    initialize_parameters(store_, 9);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string folder_;
  ParameterStore store_;
};

void expect_equal(const ParameterStore& a, const ParameterStore& b) {
  ASSERT_EQ(a.specs.size(), b.specs.size());
  for (size_t i = 0; i < a.specs.size(); ++i) {
    const int64_t index = static_cast<int64_t>(i);
    EXPECT_EQ(a.specs[i].name, b.specs[i].name);
    EXPECT_TRUE(at::equal(a.master(index), b.master(index))) << a.specs[i].name;
  }
}

TEST_F(ModelDir, WeightsSurviveSavingAndLoadingBitForBit) {
  save_model_dir(store_, folder_, "");
  expect_equal(load_model_dir(folder_), store_);
}

TEST_F(ModelDir, OutlierProtectedModelsSurviveSavingAndLoadingBitForBit) {
  ModelConfig config = store_.config;
  config.norm = "none";
  config.qk_norm = config.embedding_norm = config.branch_scale = true;
  ParameterStore store = make_parameters(resolved_config(config), {});
  initialize_parameters(store, 9);
  store.master(store.find("model.layers.1.mlp.branch_scale")).fill_(0.125);
  save_model_dir(store, folder_, "");
  const ParameterStore loaded = load_model_dir(folder_);
  EXPECT_TRUE(loaded.config == store.config);
  expect_equal(loaded, store);
}

TEST_F(ModelDir, RunFolderStandsForItsModel) {
  save_model_dir(store_, folder_ + "/model", "");
  EXPECT_EQ(find_model_dir(folder_), folder_ + "/model");
  expect_equal(load_model_dir(folder_), store_);
}

TEST_F(ModelDir, SavingTwiceGivesTheSameBytes) {
  save_model_dir(store_, folder_ + "/a", "");
  save_model_dir(store_, folder_ + "/b", "");
  for (const char* name : {"/config.json", "/model.safetensors"}) {
    EXPECT_EQ(read_file(folder_ + "/a" + name), read_file(folder_ + "/b" + name)) << name;
  }
}

TEST_F(ModelDir, Bf16IsStoredRoundedAndReadExactly) {
  save_model_dir(store_, folder_, "", {.bf16 = true});
  const ParameterStore loaded = load_model_dir(folder_);
  for (size_t i = 0; i < store_.specs.size(); ++i) {
    const int64_t index = static_cast<int64_t>(i);
    const at::Tensor rounded = store_.master(index).to(at::kBFloat16).to(at::kFloat);
    EXPECT_TRUE(at::equal(loaded.master(index), rounded)) << store_.specs[i].name;
  }
}

TEST_F(ModelDir, ComputeCopiesFollowTheLoadedWeights) {
  save_model_dir(store_, folder_, "");
  const ParameterStore loaded = load_model_dir(folder_, {.bf16 = true, .group = {}});
  EXPECT_TRUE(at::equal(loaded.compute(0), store_.master(0).to(at::kBFloat16)));
}

TEST_F(ModelDir, FolderWithoutAConfigIsAUsageError) {
  fs::create_directories(folder_);
  expect_error(ErrorCode::usage, {folder_}, [&] { load_model_dir(folder_); });
}

}  // namespace
}  // namespace osp
