// The canonical JSON of a request: what affects results, and nothing else.
#include "osp/ptq/quantize_request.h"

#include <gtest/gtest.h>

#include "osp/base/test_error.h"

namespace osp {
namespace {

QuantizeRequest gptq_request() {
  QuantizeRequest request;
  request.method = parse_method("gptq");
  request.calibration_type = "fp32";  // "auto" depends on the machine
  return request;
}

TEST(RequestJson, IsCanonicalTextOfTheFieldsThatAffectResults) {
  EXPECT_EQ(request_json(gptq_request()).dump(),
            R"({"activation_clip":1.0,"activation_group":0,"activation_scales":"per-token",)"
            R"("asymmetric":false,"bits":"4-4-4","cache_clip":1.0,"calibration":"",)"
            R"("calibration_type":"fp32","down_group":0,"group":0,"hadamard_block":0,)"
            R"("length":2048,"mean_offset":"none","profile":"osp-paper","seed":0,)"
            R"("spin_batch":8,"spin_length":0,"spin_steps":100,"tables":"bf16",)"
            R"("windows":128,"method":"gptq"})");
}

TEST(RequestJson, DoesNotDependOnWhereAndHowTheModelIsWritten) {
  QuantizeRequest request = gptq_request();
  request.out = "folder";
  request.resume = true;
  request.memory_gib = 1;
  EXPECT_EQ(request_json(request), request_json(gptq_request()));
  request.spin.steps = 99;
  EXPECT_NE(request_json(request), request_json(gptq_request()));
}

TEST(RequestJson, HasOptionsOfLaterVersionsWhereTheyChangeSomething) {
  QuantizeRequest request = gptq_request();
  request.rotation_block = 32;
  request.weight_scales = "mse";
  const Json json = request_json(request);
  EXPECT_EQ(json["rotation_block"], 32);
  EXPECT_EQ(json["weight_scales"], "mse");
}

TEST(RequestJson, NamesTheTypeThatAutoStandsForOnThisMachine) {
  QuantizeRequest request = gptq_request();
  request.calibration_type = "auto";
  EXPECT_EQ(request_json(request)["calibration_type"], request.bf16() ? "bf16" : "fp32");
}

TEST(RequestJson, NamesAreReadBackAsTheyAreShown) {
  QuantizeRequest request = gptq_request();
  FieldTable table;
  table.add("", request);
  for (const char* name : {"per-token", "after-norm", "per-tensor"}) {
    table.assign("activation_scales", name, "test");
    EXPECT_EQ(table.find("activation_scales", "test").value(), name);
  }
  for (const char* name : {"none", "residual", "all"}) {
    table.assign("mean_offset", name, "test");
    EXPECT_EQ(table.find("mean_offset", "test").value(), name);
  }
  for (const char* name : {"osp-paper", "best"}) {
    table.assign("profile", name, "test");
    EXPECT_EQ(table.find("profile", "test").value(), name);
  }
  message_of(ErrorCode::usage, [&] { table.assign("bits", "9-4-4", "test"); });
}

}  // namespace
}  // namespace osp
