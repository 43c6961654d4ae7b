// A model dir, checkpoint, quantized model dir or GGUF file as a GGUF file: what `osp export
// --format gguf` does.
//
// Tested by tests/python/test_gguf_export.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/export/gguf_export.h"

namespace osp {

struct GgufConversion {
  std::string dtype;  // what was written: f16, q8_0 or q4_0
  int64_t parameters = 0;
  bool has_tokenizer = false;
  GgufExportReport report;
};

// Reads `model`, fuses it and writes `path`. `dtype`: f16, q8_0, q4_0, or auto, which is q4_0 for a
// quantized model and f16 otherwise. Error(usage) for q4_0 of a model without codes, else the
// errors of reading the model and of export_gguf.
GgufConversion convert_to_gguf(const std::string& model, const std::string& path,
                               const std::string& dtype);

}  // namespace osp
