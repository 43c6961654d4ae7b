// A model as a GGUF file, as llama.cpp and the programs around it load it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "osp/formats/gguf_blocks.h"
#include "osp/model/parameters.h"
#include "osp/quant/online_transforms.h"
#include "osp/quant/quantized_linear.h"

namespace osp {

struct GgufExportOptions {
  // Of the linear layers; norms and biases are always F32. A tensor whose rows are no whole blocks
  // has another type (gguf_type_for_rows).
  GgufTensorType type = GgufTensorType::f16;
  // Of embedding and head; none: `type`, or F16 where there are codes.
  std::optional<GgufTensorType> tables = {};
  // Codes of linear layers and tables, which are written as they are where their type holds them.
  // The store has the numbers that they stand for.
  const QuantizedWeights* quantized = nullptr;
  // Refuses codes of linear layers that do not fit; else they are rounded once more, and the
  // report says so.
  bool exact = true;
  // Writes linear layers that have no codes beside others that do as F16; else as `type`.
  bool keep_numbers = false;
  // What the codes' inputs pass through. Codes behind a Hadamard transform count as codes that do
  // not fit: the store's numbers need none.
  OnlineTransforms online = {.query_key_hadamard = false};
  std::string tokenizer_json = {};  // "": the file has no tokenizer
  // The first is the end-of-text token, the next two end a turn and a message.
  std::vector<int64_t> end_tokens = {};
  std::string chat_template = {};
  // Files of at most so many bytes of tensors (at least one tensor each); 0: one file.
  uint64_t split_bytes = 0;
  std::string name = {};  // general.name
  // How the numbers had been rounded, where the file's types do not say it (hf_config.h).
  std::string rounded_before = {};
  std::string where = {};  // begins the messages
};

struct GgufExportReport {
  std::vector<std::string> kept_f16;       // tensors whose rows are not whole blocks of the type
  std::vector<std::string> substituted;    // the same in other types: "NAME as Q5_0"
  std::vector<std::string> rounded_again;  // layers whose codes did not fit: "NAME has zero points"
  std::vector<std::string> plain_layers;   // linear layers without codes beside others, as F16
  int64_t layers_of_codes = 0;             // layers and tables written from their codes
  double scale_rounding = 0;               // of codes: largest relative change of a scale by fp16
  std::vector<std::string> files;          // that were written, in order
  int64_t end_tokens_lost = 0;             // the format has keys for three
  std::vector<std::string> differences;    // gguf_model_differences
  std::vector<std::string> tokenizer_warnings;  // texts that llama.cpp cuts otherwise
  std::vector<std::string>
      lost_rows;  // a sentence for each tensor with live rows that became zeros
};

// `type` where rows of `columns` values are whole blocks of it; else Q5_0 for Q4_K and Q8_0 for
// Q6_K, as llama.cpp does, and F16 where that does not fit either.
GgufTensorType gguf_type_for_rows(GgufTensorType type, int64_t columns);

// Error(unsupported) with a sentence for what llama.cpp's architectures cannot carry: norms other
// than RMSNorm with weights per channel and EmbProj (fuse first), with `exact` codes that the type
// does not hold and online Hadamards of the down projection, MXFP4 without codes, values beyond
// fp16. Error(damaged) for values that are not finite.
void check_gguf_export(const ParameterStore& store, const GgufExportOptions& options);

// Writes `path`, or its parts (gguf_split.h), by temporary names beside them; Error(usage) if a
// part exists. The dequantized tensors of the file are the weights rounded by gguf_quantize, or
// those of codes on scales in fp16 (gguf_codes.h).
GgufExportReport export_gguf(const ParameterStore& store, const std::string& path,
                             const GgufExportOptions& options);

}  // namespace osp
