#include "osp/ops/result_origin.h"

#include <torch/version.h>

#include "osp/base/provenance.h"
#include "osp/ops/isa.h"

namespace osp {

std::string instruction_set_text() {
  std::string text = isa_name(active_isa());
  std::string more;
  if (has_avx512_bf16()) more += ", bf16";
  if (has_avx512_vnni()) more += ", vnni";
  if (has_amx_int8()) more += ", amx-int8";
  return more.empty() ? text : text + " with " + more.substr(2);
}

void record_origin(Json& result) {
  record_provenance(result);
  result["instruction_set"] = instruction_set_text();
  result["tensor_library"] = std::string("PyTorch ") + TORCH_VERSION;
}

void record_timed_origin(Json& result) {
  record_origin(result);
  result["load_average"] = load_average();
}

}  // namespace osp
