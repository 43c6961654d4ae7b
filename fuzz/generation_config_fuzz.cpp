// Feeds arbitrary bytes to the reader of generation_config.json, beside a config.json that is
// whole. End tokens that it accepts must be ids, each once.
#include <algorithm>
#include <cstdint>
#include <set>
#include <string>

#include "fuzz/accepted.h"
#include "fuzz/json_mutator.h"
#include "fuzz/memory_file.h"
#include "osp/base/error.h"
#include "osp/model/model_files.h"

namespace {

constexpr const char* kKeys[] = {"eos_token_id", "bos_token_id",      "pad_token_id",
                                 "max_length",   "do_sample",         "transformers_version",
                                 "stop_strings", "_from_model_config"};
constexpr char kConfig[] = R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "vocab_size": 64, "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "eos_token_id": 3})";

}  // namespace

OSP_JSON_MUTATOR(kKeys)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string config = osp::fuzz::memory_file(
      "config.json", reinterpret_cast<const uint8_t*>(kConfig), sizeof(kConfig) - 1);
  osp::fuzz::memory_file("generation_config.json", data, size);
  try {
    const std::string& folder = osp::fuzz::memory_folder().path();
    const std::vector<int64_t> ends = osp::load_end_tokens(folder);
    osp::fuzz::accepted(data, size);
    const std::set<int64_t> unique(ends.begin(), ends.end());
    OSP_CHECK(unique.size() == ends.size() && unique.count(3) == 1, "end tokens of {}", config);
    const std::string text(reinterpret_cast<const char*>(data), size);
    for (const int64_t id : ends) {  // as it is written there, no number that wrapped
      OSP_CHECK(id == 3 || text.find(fmt::format("{}", id)) != std::string::npos, "id {}", id);
    }
    osp::load_outer_tokens(folder);
    osp::load_chat_template(folder);
  } catch (const osp::Error&) {
  }
  return 0;
}
