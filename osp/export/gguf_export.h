// A model as a GGUF file, as llama.cpp and the programs around it load it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/formats/gguf_blocks.h"
#include "osp/model/parameters.h"
#include "osp/quant/online_transforms.h"
#include "osp/quant/quantized_linear.h"

namespace osp {

struct GgufExportOptions {
  // f16, q8_0, or q4_0 (then with `quantized`); norms are always F32.
  GgufTensorType type = GgufTensorType::f16;
  // The codes of the linear layers, for q4_0. Embedding and head become F16.
  const QuantizedWeights* quantized = nullptr;
  OnlineTransforms online = {.query_key_hadamard = false};
  std::string tokenizer_json = {};  // "": the file has no tokenizer
  // The first is the end-of-text token, the next two end a turn and a message.
  std::vector<int64_t> end_tokens = {};
  std::string chat_template = {};
  std::string name = {};   // general.name
  std::string where = {};  // begins the messages
};

struct GgufExportReport {
  std::vector<std::string> kept_f16;  // tensors whose rows are not whole blocks of the type
  double scale_rounding = 0;          // q4_0: largest relative change of a scale by fp16
  int64_t end_tokens_lost = 0;        // the format has keys for three
  std::vector<std::string>
      lost_rows;  // a sentence for each tensor with live rows that became zeros
};

// Error(unsupported) with a sentence for what llama.cpp's "llama" cannot carry: norms other than
// RMSNorm with weights per channel and EmbProj (fuse first), QK-norm, online Hadamards of the down
// projection, codes other than symmetric ones of at most 4 bits whose groups are whole blocks of
// 32, values beyond fp16. Error(damaged) for values that are not finite.
void check_gguf_export(const ParameterStore& store, const GgufExportOptions& options);

// Writes `path` by a temporary name beside it. The dequantized tensors of the file are the weights
// rounded to fp16, to Q8_0 as the reference quantizes, or code · fp16(scale).
GgufExportReport export_gguf(const ParameterStore& store, const std::string& path,
                             const GgufExportOptions& options);

}  // namespace osp
