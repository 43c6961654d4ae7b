#include "osp/ptq/quantize_method.h"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/model/test_model.h"
#include "osp/ptq/quantize_model.h"
#include "osp/ptq/quantize_report.h"
#include "osp/ptq/quantize_table.h"

namespace osp {
namespace {

TEST(QuantizeMethod, NamesAreCompletedAndOrdered) {
  EXPECT_EQ(parse_method("rtn").name, "rtn");
  EXPECT_EQ(parse_method("gptq+quarot").name, "quarot+gptq");
  EXPECT_EQ(parse_method("quarot").name, "quarot+gptq");
  EXPECT_EQ(parse_method("spinquant").name, "spinquant+gptq");
  EXPECT_EQ(parse_method("smoothquant").name, "smoothquant+rtn");
  EXPECT_EQ(parse_method("awq+qronos").rounding, &kQronos);
  for (const std::string& name : table_methods()) EXPECT_EQ(parse_method(name).name, name);
}

TEST(QuantizeMethod, TheTableHasThePapersRowsAndTwoMore) {
  const std::vector<std::string> expected = {"rtn",         "ffn-hadamard+rtn", "ffn-hadamard+gptq",
                                             "quarot+gptq", "spinquant+gptq",   "smoothquant+rtn",
                                             "awq+rtn"};
  EXPECT_EQ(table_methods(), expected);
}

TEST(QuantizeMethod, EveryRowIsCompleteAndFoundByItsName) {
  const std::string help = method_help();
  for (const TransformRow* row : transforms()) {
    EXPECT_EQ(find_transform(row->name), row);
    EXPECT_EQ(parse_method(std::string(row->name)).transform, row);
    EXPECT_EQ(find_rounding(row->name), nullptr) << row->name;
    EXPECT_NE(find_rounding(row->default_rounding), nullptr) << row->name;
    EXPECT_NE(row->make, nullptr) << row->name;
    EXPECT_NE(help.find(fmt::format("{} ({})", row->name, row->sentence)), std::string::npos);
  }
  for (const RoundingRow* row : roundings()) {
    EXPECT_EQ(find_rounding(row->name), row);
    EXPECT_EQ(parse_method(std::string(row->name)).rounding, row);
    EXPECT_NE(row->round, nullptr) << row->name;
    EXPECT_NE(help.find(fmt::format("{} ({})", row->name, row->sentence)), std::string::npos);
  }
}

TEST(QuantizeMethod, RowsSayWhatTheirTransformsNeedAndLeaveOnline) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  const auto source = source_of(store);
  const at::Tensor windows = at::arange(48, at::kLong).view({2, 24});
  QuantizeRequest request;
  request.spin = {.steps = 1, .batch = 1};
  const WeightGrid grid;
  for (const TransformRow* row : transforms()) {
    const PartTransform transform = row->make({*source, request, grid, windows});
    EXPECT_EQ(transform.online.down_hadamard, row->leaves_down_hadamard) << row->name;
    const bool learns = row->name.starts_with("spinquant");
    EXPECT_EQ(!transform.learning.is_null(), learns) << row->name;
    EXPECT_EQ(transform.kept_rows > 0 || learns, row->needs_calibration) << row->name;
  }
}

TEST(QuantizeMethod, TheTwoSpinQuantsDifferInWhatTheyMinimize) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  const auto source = source_of(store);
  const at::Tensor windows = at::arange(48, at::kLong).view({2, 24});
  QuantizeRequest request;
  request.spin = {.steps = 1, .batch = 1};
  const auto objective = [&](const char* name) {
    return find_transform(name)->make({*source, request, {}, windows}).learning["objective"];
  };
  EXPECT_EQ(objective("spinquant"), "cross-entropy");
  EXPECT_EQ(objective("spinquant-kurtosis"), "kurtosis");
}

TEST(QuantizeMethod, EveryDownHadamardHasBlocksOfTheRequestedSize) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  const auto source = source_of(store);
  const at::Tensor windows = at::arange(48, at::kLong).view({2, 24});
  QuantizeRequest request;
  request.spin = {.steps = 1, .batch = 1};
  request.down_block = 16;
  for (const TransformRow* row : transforms()) {
    if (!row->leaves_down_hadamard) continue;
    const PartTransform transform = row->make({*source, request, {}, windows});
    EXPECT_EQ(transform.online.down_block, 16) << row->name;
  }
}

TEST(QuantizeMethod, UnknownAndContradictingPartsAreUsageErrors) {
  for (const char* text : {"", "+", "gtpq", "rtn+gptq", "quarot+spinquant", "gptq+gptq", "rtn+"}) {
    try {
      parse_method(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::usage) << text;
    }
  }
}

TEST(QuantizeMethod, OnlyWhatDrawsFromTextNeedsCalibration) {
  EXPECT_FALSE(parse_method("rtn").needs_calibration());
  EXPECT_FALSE(parse_method("quarot+rtn").needs_calibration());
  for (const char* text : {"gptq", "spinquant+rtn", "smoothquant", "awq"}) {
    EXPECT_TRUE(parse_method(text).needs_calibration()) << text;
  }
}

TEST(QuantizeMethod, ProfilesDifferInScalesOrderAndInputs) {
  const QuantizeMethod gptq = parse_method("gptq");
  const WeightSettings paper = weight_settings(gptq, Profile::osp_paper, {4, 4, 4}, 0, true);
  EXPECT_FALSE(paper.grid.fp16_scales || paper.gptq.act_order);
  EXPECT_EQ(paper.calibration_bits, BitWidths());
  const WeightSettings best = weight_settings(gptq, Profile::best, {4, 4, 4}, 32, false);
  EXPECT_TRUE(best.grid.fp16_scales && best.gptq.act_order);
  EXPECT_EQ(best.calibration_bits, (BitWidths{16, 4, 4}));
  EXPECT_EQ(best.grid.group, 32);
}

TEST(QuantizeMethod, AwqClipsByItselfAndQronosAlwaysOrdersColumns) {
  const auto settings = [](const std::string& method) {
    return weight_settings(parse_method(method), Profile::osp_paper, {4, 4, 4}, 0, true);
  };
  for (const TransformRow* row : transforms()) {
    const std::string method = std::string(row->name) + "+rtn";
    EXPECT_EQ(settings(method).grid.clipping_search, row->name != "awq") << method;
  }
  for (const RoundingRow* row : roundings()) {
    const std::string method(row->name);
    EXPECT_EQ(settings(method).gptq.act_order, method == "qronos") << method;
  }
}

TEST(QuantizeReport, ReadsBackWhatItWrote) {
  LinearReport report;
  report.name = "layer";
  report.sqnr_db = 20.5;
  report.output_error = -1.0;
  report.kurtosis_before = 3.25;
  report.kurtosis_after = std::nan("");
  report.seconds = 0.5;
  report.damping = 0.1;
  report.num_attempts = 2;
  report.num_dead = 3;
  const LinearReport read = parse_linear_report(linear_report_json(report), "file");
  EXPECT_EQ(read.name, "layer");
  EXPECT_EQ(read.sqnr_db, 20.5);
  EXPECT_EQ(read.output_error, -1.0);
  EXPECT_EQ(read.kurtosis_before, 3.25);
  EXPECT_TRUE(std::isnan(read.kurtosis_after));
  EXPECT_EQ(read.num_attempts, 2);
  EXPECT_EQ(read.num_dead, 3);
}

TEST(QuantizeReport, TotalsNameTheWorstLayer) {
  std::vector<LinearReport> reports(2);
  reports[0].name = "good";
  reports[0].output_error = 0.1;
  reports[1].name = "bad";
  reports[1].output_error = 0.3;
  const Json totals = quantize_report_json(reports)["totals"];
  EXPECT_EQ(totals["largest_relative_output_error_layer"], "bad");
  EXPECT_DOUBLE_EQ(totals["mean_relative_output_error"].get<double>(), 0.2);
}

Table small_table() {
  return {"4-4-4",
          {{"runs/a/model", "rtn", 10.0, 20.0, 0.5, 0.9, 100, 32, 400.0, 50},
           {"runs/b/model", "rtn", 11.0, 3000.4, 0.6, 0.8, 100, 32, 500.0, 50},
           {"runs/a/model", "gptq", 10.0, 15.0, 0.25, 0.9, 100, 32, 400.0, 50},
           {"runs/a/model", "gptq", 10.0, 17.0, 0.35, 0.9, 100, 32, 400.0, 50}}};
}

TEST(QuantizeTable, HasARowPerMethodAndAColumnPerModel) {
  EXPECT_EQ(table_text(small_table()),
            "| perplexity (KL) |                            a |             b |\n"
            "|-----------------|-----------------------------:|--------------:|\n"
            "| 16-16-16        |                       10.000 |        11.000 |\n"
            "| 4-4-4 rtn       |              20.000 (0.5000) | 3000 (0.6000) |\n"
            "| 4-4-4 gptq      | 16.000±1.414 (0.3000±0.0707) |         - (-) |\n");
}

TEST(QuantizeTable, ModelsWithDifferentVocabulariesAreComparedByBytes) {
  Table table = small_table();
  EXPECT_EQ(table_text(table).find("bits per byte"), std::string::npos);
  table.entries[1].vocabulary = 60;
  const std::string text = table_text(table);
  EXPECT_NE(text.find("| bits per byte |"), std::string::npos);
  EXPECT_NE(text.find("| 16-16-16      |        0.8305 | 0.6919 |"), std::string::npos) << text;
  EXPECT_DOUBLE_EQ(bits_per_byte(16.0, table.entries[0]), 1.0);
}

TEST(QuantizeTable, SpreadIsMeanAndSampleDeviation) {
  const Spread spread = spread_of({1.0, 2.0, 3.0});
  EXPECT_DOUBLE_EQ(spread.mean, 2.0);
  EXPECT_DOUBLE_EQ(spread.deviation, 1.0);
  EXPECT_EQ(spread_of({5.0}).deviation, 0.0);
}

}  // namespace
}  // namespace osp
