// The origin of a result that the tensor library and the kernels computed.
//
// Tested by result_origin_test.cpp.
#pragma once

#include <string>

#include "osp/base/json.h"

namespace osp {

// The instruction set that the kernels use, with what it has beside the name: "avx512
// with bf16, vnni".
std::string instruction_set_text();

// Adds what record_provenance() (osp/base/provenance.h) adds, and "instruction_set" and
// "tensor_library" ("PyTorch 2.15.0").
void record_origin(Json& result);
// For a result that is a time: adds "load_average" of the last minute, too.
void record_timed_origin(Json& result);

}  // namespace osp
