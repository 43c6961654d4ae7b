#include "osp/export/gguf_convert.h"

#include <filesystem>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/formats/gguf.h"
#include "osp/model/fuse.h"
#include "osp/model/model_dir.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {
namespace {

GgufTensorType type_of(const std::string& dtype) {
  if (dtype == "f16") return GgufTensorType::f16;
  if (dtype == "q8_0") return GgufTensorType::q8_0;
  if (dtype == "q4_0") return GgufTensorType::q4_0;
  fail(ErrorCode::usage, "--dtype {}: a GGUF file is written in f16, q8_0 or q4_0", dtype);
}

// The model's name in the file: the last part of its path that is not "model".
std::string name_of(const std::string& dir) {
  std::filesystem::path path = std::filesystem::path(dir).lexically_normal();
  if (!path.has_filename() || path.filename() == "model") path = path.parent_path();
  return path.stem().string();
}

}  // namespace

GgufConversion convert_to_gguf(const std::string& model, const std::string& path,
                               const std::string& dtype) {
  // What to write: the type, and a name for the model.
  const std::string dir = find_model_dir(model);
  const bool quantized = is_quantized_model_dir(dir);
  GgufConversion result;
  result.dtype = dtype != "auto" ? dtype : quantized ? "q4_0" : "f16";
  GgufExportOptions options;
  options.type = type_of(result.dtype);
  options.where = dir;
  options.name = name_of(dir);
  if (options.type == GgufTensorType::q4_0 && !quantized) {
    fail(ErrorCode::usage,
         "{}: --dtype q4_0 takes the 4-bit codes of a quantized model; run osp quantize first, or "
         "choose f16 or q8_0",
         dir);
  }
  // The tokenizer and the tokens that end a text.
  result.has_tokenizer = Tokenizer::exists(dir);
  if (result.has_tokenizer) {
    const Tokenizer tokenizer = Tokenizer::from_file(dir);
    options.tokenizer_json = tokenizer.json();
    options.chat_template = load_chat_template(dir);
    options.end_tokens = load_end_tokens(dir);
    if (options.end_tokens.empty() && tokenizer.end_of_document() >= 0) {
      options.end_tokens.push_back(tokenizer.end_of_document());
    }
  }
  // The weights: the codes of a quantized model, or the fused model.
  if (quantized) {
    const QuantizedModel source = load_quantized_model_dir(dir);
    result.parameters = source.store.num_parameters();
    if (options.type != GgufTensorType::q4_0) {  // weights as numbers need no online transform
      result.report = export_gguf(source.plain_store(), path, options);
      return result;
    }
    options.online = source.info.online;
    options.quantized = &source.weights;
    result.report = export_gguf(source.store, path, options);
    return result;
  }
  const ParameterStore store = fuse(load_model_dir(dir));
  result.parameters = store.num_parameters();
  result.report = export_gguf(store, path, options);
  return result;
}

}  // namespace osp
