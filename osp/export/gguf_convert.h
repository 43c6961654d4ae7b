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
  std::string dtype;   // of the linear layers: f16, q4_0, …
  std::string tables;  // of embedding and head
  int64_t parameters = 0;
  bool has_tokenizer = false;
  GgufExportReport report;
};

// Reads `model`, fuses it and writes `path`. `dtype` and `tables` are names of gguf_written_type,
// or auto: for linear layers the smallest type that holds a quantized model's codes as they are,
// and f16 without codes; for tables the type that holds their codes, f16 beside other codes, else
// `dtype`. Error(usage) for unknown names and mxfp4 of other numbers, Error(unsupported) where auto
// finds no type, else the errors of reading the model and of export_gguf.
GgufConversion convert_to_gguf(const std::string& model, const std::string& path,
                               const std::string& dtype, const std::string& tables,
                               uint64_t split_bytes = 0);

}  // namespace osp
