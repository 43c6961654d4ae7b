#include "osp/model/average.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"
#include "osp/model/model_dir.h"
#include "osp/model/test_model.h"

namespace osp {
namespace {

std::string saved(const TestFolder& folder, const ModelConfig& config, uint64_t seed) {
  const std::string path = folder / fmt::format("step-{}", seed);
  save_model_dir(initialized_model(config, seed), path, "");
  return path;
}

ModelConfig averaged_config() {
  ModelConfig config = grouped_query_config(50, 16);
  config.norm = "single-scale";
  config.embedding_projection = true;
  return config;
}

TEST(Average, EveryWeightIsTheMeanOfThoseOfTheCheckpoints) {
  const TestFolder folder;
  std::vector<std::string> paths;
  std::vector<ParameterStore> stores;
  for (const uint64_t seed : {1, 2, 3}) {
    paths.push_back(saved(folder, averaged_config(), seed));
    stores.push_back(load_model_dir(paths.back()));
  }
  const ParameterStore mean = average_models(paths);
  ASSERT_EQ(mean.specs.size(), stores[0].specs.size());
  for (size_t i = 0; i < mean.specs.size(); ++i) {
    const int64_t parameter = static_cast<int64_t>(i);
    at::Tensor sum = stores[0].master(parameter).to(at::kDouble);
    for (const size_t k : {size_t{1}, size_t{2}}) sum = sum + stores[k].master(parameter);
    EXPECT_TRUE(mean.master(parameter).equal(sum.div(3.0).to(at::kFloat))) << mean.specs[i].name;
  }
}

TEST(Average, OneModelTwiceIsThatModel) {
  const TestFolder folder;
  const std::string path = saved(folder, averaged_config(), 1);
  const ParameterStore store = load_model_dir(path), mean = average_models({path, path});
  for (size_t i = 0; i < mean.banks.size(); ++i) {
    EXPECT_TRUE(mean.banks[i].master.equal(store.banks[i].master));
  }
}

TEST(Average, ModelsOfOtherShapesAndTooFewAreRefused) {
  const TestFolder folder;
  const std::string first = saved(folder, averaged_config(), 1);
  ModelConfig wider = averaged_config();
  wider.inner = 64;
  const std::string other = saved(folder, wider, 2);
  const std::string message = message_of(ErrorCode::usage, [&] { average_models({first, other}); });
  EXPECT_NE(message.find("intermediate_size is 64, but 48 in"), std::string::npos) << message;
  message_of(ErrorCode::usage, [&] { average_models({first}); });
  message_of(ErrorCode::usage, [&] { average_models({first, folder / "nothing"}); });
}

}  // namespace
}  // namespace osp
