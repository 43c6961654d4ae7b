#include "osp/ops/result_origin.h"

#include <gtest/gtest.h>

#include "osp/ops/isa.h"

namespace osp {
namespace {

TEST(ResultOrigin, NamesTheInstructionSetAndTheLibrary) {
  Json result = {{"loss", 1.5}};
  record_origin(result);
  EXPECT_EQ(result["loss"], 1.5);
  const std::string set = result["instruction_set"];
  EXPECT_TRUE(set.starts_with(isa_name(active_isa()))) << set;
  EXPECT_EQ(set.find("bf16") != std::string::npos, has_avx512_bf16()) << set;
  EXPECT_TRUE(result["tensor_library"].get<std::string>().starts_with("PyTorch 2."));
  EXPECT_FALSE(result.contains("load_average"));
  record_timed_origin(result);
  EXPECT_GE(result["load_average"].get<double>(), 0);
  EXPECT_TRUE(result.contains("command") && result.contains("machine"));
}

}  // namespace
}  // namespace osp
