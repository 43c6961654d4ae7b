#include "osp/report/plain_names.h"

#include <algorithm>
#include <array>
#include <utility>

namespace osp {

std::string plain_name(const std::string& key) {
  constexpr std::array<std::pair<const char*, const char*>, 31> kNames = {
      {{"arc_easy", "ARC Easy"},
       {"arc_challenge", "ARC Challenge"},
       {"commonsense_qa", "CommonsenseQA"},
       {"gsm8k", "GSM8K"},
       {"hellaswag", "HellaSwag"},
       {"mmlu", "MMLU"},
       {"openbookqa", "OpenBookQA"},
       {"piqa", "PIQA"},
       {"siqa", "SIQA"},
       {"trivia_qa", "TriviaQA"},
       {"winogrande", "WinoGrande"},
       {"acc", "accuracy"},
       {"acc_norm", "accuracy by characters"},
       {"acc_bytes", "accuracy by bytes"},
       {"exact_match", "exact match"},
       {"attention_input", "attention input"},
       {"attention_output", "attention output"},
       {"mlp_input", "MLP input"},
       {"mlp_product", "MLP product"},
       {"mlp_output", "MLP output"},
       {"cache", "key-value cache"},
       {"residual", "hidden state"},
       {"osp_version", "osp"},
       {"sha256", "SHA-256"},
       {"prompts", "prompts"},
       {"limit", "items at most (0: all)"},
       {"isa", "instruction set"},
       {"libtorch", "libtorch"},
       {"query", "queries"},
       {"key", "keys"},
       {"value", "values"}}};
  for (const auto& [known, name] : kNames) {
    if (key == known) return name;
  }
  std::string words = key;
  std::replace(words.begin(), words.end(), '_', ' ');
  return words;
}

}  // namespace osp
