// Model dirs: Hugging Face folders (config.json, model.safetensors or a sharded index,
// tokenizer.json), read and written.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "osp/model/hf_config.h"
#include "osp/model/model_files.h"
#include "osp/model/model_source.h"
#include "osp/model/parameters.h"

namespace osp {

// Beside config.json in a folder of `osp export --format panels`, in place of the weights: the
// layers as the integer engine reads them (osp/runtime/panel_file.h).
inline constexpr const char* kPanelFile = "panels.safetensors";

// Error(unsupported): `dir` is such a folder, and something else than running it was asked for.
[[noreturn]] void refuse_panels(const std::string& dir);

// The folder that holds config.json: `path` itself, or `path`/model for a run folder; a .gguf file
// is its own folder here and below. Error(usage) that says what was looked for if neither has one.
std::string find_model_dir(const std::string& path);

// config.json of a model dir (also `path`/model, see find_model_dir). Error as parse_hf_config.
HfConfig load_model_config(const std::string& path);
// True if the checkpoint has more than the text model that osp reads of it (wrapped_model.h).
bool holds_more_than_text(const std::string& path);

// Opens a model of any family of hf_family.h. Missing or extra tensors, wrong shapes, types other
// than F32/BF16/F16: Error(damaged/unsupported) naming tensor and file, before anything is
// allocated from the numbers of config.json; a weight that is NaN or infinite: Error(damaged).
// `path` may also be a checkpoint folder (its model part is itself a model dir) or a run folder
// with model/. Values are read and checked part by part.
std::unique_ptr<ModelSource> open_model(const std::string& path);

// The whole model at once.
ParameterStore load_model_dir(const std::string& path, const StoreOptions& options = {});

// The form in which a model is stored.
struct SaveOptions {
  bool bf16 = false;                     // rounded to nearest even; otherwise fp32
  std::vector<int64_t> end_tokens = {};  // none: the tokenizer's end-of-document token
  OuterTokens outer_tokens = {};         // bos_token_id and pad_token_id of config.json
  std::string rounded_before = {};       // see HfConfig::rounded_before
};

// Writes model.safetensors, then tokenizer files, then config.json, so that a folder with a
// config.json is whole. Architecture: see hf_config.h. Files are fsynced; the folder is created.
// tokenizer_json: content to store beside it, "" for none. A plain Llama with a tokenizer also gets
// the tokenizer_config.json and generation_config.json that transformers' Auto classes want, where
// the folder has none yet (copy_model_files may have brought the source's).
void save_model_dir(const ParameterStore& store, const std::string& path,
                    const std::string& tokenizer_json, const SaveOptions& options = {});

// Writes tokenizer.json and, where they are absent, the files that AutoTokenizer and generate() of
// transformers look for beside it.
void save_tokenizer_files(const std::string& path, const std::string& tokenizer_json,
                          int64_t context, const std::vector<int64_t>& end_tokens);

}  // namespace osp
