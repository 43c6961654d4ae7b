#include "osp/report/plain_names.h"

#include <algorithm>
#include <array>
#include <utility>

namespace osp {

std::string plain_name(const std::string& key) {
  // Names that are not their words.
  constexpr std::array<std::pair<const char*, const char*>, 25> kNames = {
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
       {"mlp_input", "MLP input"},
       {"mlp_product", "MLP product"},
       {"mlp_output", "MLP output"},
       {"cache", "key-value cache"},
       {"residual", "hidden state"},
       {"osp_version", "osp"},
       {"sha256", "SHA-256"},
       {"limit", "items at most (0: all)"},
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
