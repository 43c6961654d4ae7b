// Files beside the weights of a model dir: the configuration of generation, the tokenizer's
// files, chat templates, licences. One reader for what these say about where a text ends, and one
// copier that takes all of them along.
//
// Tested by model_files_test.cpp and tests/python/test_generate.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace osp {

// The ids that end a text by the model's own files (`path` as find_model_dir gives it; a quantized
// model dir or a GGUF file, too): eos_token_id of config.json, then those of generation_config.json
// that are not among them; both may have one id or a list. transformers stops at the second, other
// programs at the first; no text goes on behind either. Error(damaged) naming file and key.
std::vector<int64_t> load_end_tokens(const std::string& path);

// bos_token_id and pad_token_id of config.json, -1 where it has none.
struct OuterTokens {
  int64_t begin = -1;
  int64_t padding = -1;
};
OuterTokens load_outer_tokens(const std::string& path);

// The chat template of a model dir or GGUF file, as it is; "" if there is none.
std::string load_chat_template(const std::string& path);

// The texts of the tokens that begin and end a document by the tokenizer's own files: bos_token and
// eos_token of tokenizer_config.json, else of special_tokens_map.json, as a text or as an object
// with "content"; in a GGUF file the tokens of its ids. "" for one that is not given.
struct SpecialTokenTexts {
  std::string begin;
  std::string end;
};
SpecialTokenTexts load_special_token_texts(const std::string& path);

// Copies everything that lies beside the weights of `source_dir` into `folder` (which exists, and
// will be renamed to `out`), with its subfolders: all files but weights, config.json, the files
// that describe a form of the weights (indices, quantize.json, quantize_config.json), those of a
// training checkpoint, hidden ones and what belongs to `out` itself. A GGUF file gives the
// tokenizer and chat template that are in it. Error(io) for a link that leads nowhere.
void copy_model_files(const std::string& source_dir, const std::string& folder,
                      const std::string& out);

}  // namespace osp
