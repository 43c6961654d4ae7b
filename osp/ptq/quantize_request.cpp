#include "osp/ptq/quantize_request.h"

#include "osp/base/error.h"
#include "osp/ops/isa.h"

namespace osp {

ActivationMode parse_activation_mode(const std::string& text) {
  if (text == "per-token") return ActivationMode::per_token;
  if (text == "after-norm") return ActivationMode::after_norm;
  if (text == "per-tensor") return ActivationMode::per_tensor;
  fail(ErrorCode::usage, "--activation-scales {}: expected per-token, after-norm or per-tensor",
       text);
}

std::string activation_mode_name(ActivationMode mode) {
  switch (mode) {
    case ActivationMode::per_token:
      return "per-token";
    case ActivationMode::after_norm:
      return "after-norm";
    case ActivationMode::per_tensor:
      return "per-tensor";
  }
  OSP_CHECK(false, "unknown activation mode");
}

std::string profile_name(Profile profile) {
  return profile == Profile::best ? "best" : "osp-paper";
}

bool QuantizeRequest::bf16() const {
  if (calibration_type == "auto") return has_avx512_bf16();
  return calibration_type == "bf16";
}

Json request_json(const QuantizeRequest& request) {
  QuantizeRequest described = request;
  described.calibration_type = request.bf16() ? "bf16" : "fp32";
  FieldTable table;
  table.add("", described);
  Json json = results_json(table);
  json["method"] = request.method.name;
  // Options of later versions are left out where they are as before, so that what an earlier one
  // began can be resumed.
  if (request.rotation_block == 0) json.erase("rotation_block");
  if (request.weight_scales == "absmax") json.erase("weight_scales");
  return json;
}

}  // namespace osp
