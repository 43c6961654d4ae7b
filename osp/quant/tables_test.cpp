#include "osp/quant/tables.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>

#include "osp/base/test_error.h"
#include "osp/model/test_model.h"

namespace osp {
namespace {

TEST(Tables, AreEmbeddingAndHeadAlone) {
  const ParameterStore original = small_fused_model(/*kv_heads=*/2);
  for (const char* name : {"fp32", "bf16", "int8", "int4"}) {
    ParameterStore store = small_fused_model(/*kv_heads=*/2);
    const TableType type = parse_table_type(name);
    EXPECT_EQ(table_type_name(type), name);
    const QuantizedWeights codes = round_tables(store, type);
    for (size_t i = 0; i < store.specs.size(); ++i) {
      const at::Tensor now = store.master(static_cast<int64_t>(i));
      const at::Tensor before = original.master(static_cast<int64_t>(i));
      EXPECT_EQ(now.equal(before), !is_table(store.specs[i]) || type == TableType::fp32)
          << name << " " << store.specs[i].name;
      EXPECT_EQ(codes.contains(store.specs[i].name),
                is_table(store.specs[i]) && has_integers(type));
    }
  }
}

TEST(Tables, HoldTheNumbersOfTheirTypes) {
  const ParameterStore original = small_fused_model(/*kv_heads=*/2);
  const int64_t embedding = original.find("model.embed_tokens.weight");
  const at::Tensor table = original.master(embedding);
  ParameterStore store = small_fused_model(/*kv_heads=*/2);
  round_tables(store, TableType::bf16);
  EXPECT_TRUE(store.master(embedding).equal(table.to(at::kBFloat16).to(at::kFloat)));
  // Rounding again changes nothing.
  const at::Tensor once = store.master(embedding).clone();
  round_tables(store, TableType::bf16);
  EXPECT_TRUE(store.master(embedding).equal(once));
  for (const auto& [type, top] : {std::pair{TableType::int8, 127.0}, {TableType::int4, 7.0}}) {
    ParameterStore rounded = small_fused_model(/*kv_heads=*/2);
    const QuantizedWeights codes = round_tables(rounded, type);
    const QuantizedLinear& layer = codes.at("model.embed_tokens.weight");
    EXPECT_EQ(layer.group, 32);
    EXPECT_TRUE(layer.symmetric());
    EXPECT_TRUE(layer.scale.equal(layer.scale.to(at::kHalf).to(at::kFloat)));
    EXPECT_TRUE(rounded.master(embedding).equal(layer.dequantized()));
    // Half a step of the largest magnitude; with a clipping search more at the ends.
    const double error = (rounded.master(embedding) - table).abs().max().item<double>();
    const double largest = table.abs().max().item<double>();
    EXPECT_LT(error, largest / top * (type == TableType::int8 ? 0.51 : 1.5));
    EXPECT_GT(error, 0.0);
  }
}

TEST(Tables, AGroupIsARowWhere32DoesNotDivideIt) {
  EXPECT_EQ(table_grid(TableType::int8, 64).group, 32);
  EXPECT_EQ(table_grid(TableType::int4, 72).group, 0);
}

TEST(Tables, OtherNamesAreRefused) {
  expect_error(ErrorCode::usage, {"--tables f16", "fp32, bf16, int8 or int4"},
               [] { parse_table_type("f16"); });
}

}  // namespace
}  // namespace osp
