#include "osp/export/gguf_sentencepiece.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/printable.h"
#include "osp/export/gguf_tokenizer.h"

namespace osp {
namespace {

constexpr const char* kSpaceMark = "\u2581";
// Behind the scores of all tokens that merges make.
constexpr float kLowestScore = -1e9f;
constexpr int64_t kBytes = 256;
// Longer tokens are refused in GGUF files; the cuts of one take the square of its length.
constexpr size_t kMostTokenBytes = 512;

bool is_given(const Json& json, const char* key) {
  return json.contains(key) && !json.at(key).is_null();
}

// The steps of a component: those of a Sequence under `key`, itself, or none.
std::vector<Json> steps_of(const Json& json, const char* component, const char* key) {
  if (!is_given(json, component)) return {};
  const Json& whole = json.at(component);
  if (whole.value("type", "") != "Sequence") return {whole};
  return whole.at(key).get<std::vector<Json>>();
}

bool replaces_spaces(const Json& step) {
  return step.value("type", "") == "Replace" && step.at("pattern").value("String", "") == " " &&
         step.at("content") == kSpaceMark;
}

// How spaces become marks in front of the model.
struct Spaces {
  bool prefix = false;
  std::string warning = {};
};

// The normalizer and the pre-tokenizer as the one thing that the format can say of them.
Spaces spaces_of(const Json& json, const std::string& where) {
  Spaces spaces;
  bool marked = false;
  for (const Json& step : steps_of(json, "normalizer", "normalizers")) {
    const bool prepends = step.value("type", "") == "Prepend" && !marked && !spaces.prefix &&
                          step.at("prepend") == kSpaceMark;
    if (prepends) {
      spaces.prefix = true;
    } else if (replaces_spaces(step) && !marked) {
      marked = true;
    } else {
      no_gguf_equivalent(where, "the normalizer " + printable(step.dump(), 200));
    }
  }
  for (const Json& step : steps_of(json, "pre_tokenizer", "pretokenizers")) {
    const std::string type = step.value("type", "");
    // Cutting at spaces does nothing where all of them are marks.
    if (type == "Split" && marked && step.at("pattern").value("String", "") == " ") continue;
    const bool cuts = step.value("split", true);
    if (type != "Metaspace" || marked || spaces.prefix || cuts ||
        step.at("replacement") != kSpaceMark) {
      no_gguf_equivalent(where, "the pre-tokenizer " + printable(step.dump(), 200));
    }
    marked = true;
    const std::string scheme =
        step.value("prepend_scheme", step.value("add_prefix_space", true) ? "always" : "never");
    spaces.prefix = scheme != "never";
    if (!spaces.prefix) continue;
    spaces.warning =
        scheme == "first"
            ? "llama.cpp puts a space in front of the text and behind every special token in it; "
              "this tokenizer does so in front of a text that begins with no space, and nowhere "
              "else"
            : "llama.cpp puts a space in front of every text; this tokenizer does so in front of "
              "those that begin with no space";
  }
  if (!marked) no_gguf_equivalent(where, "no U+2581 in the place of spaces");
  return spaces;
}

// The texts of added tokens that are cut out of a text before anything else, in llama.cpp as in
// transformers. No token that contains one is made by merges.
class CutOut {
 public:
  void add(const std::string& text) {
    begins_[static_cast<unsigned char>(text.front())] = true;
    longest_ = std::max(longest_, text.size());
    texts_.insert(text);
  }
  bool is_in(std::string_view token) const {
    for (size_t at = 0; at < token.size(); ++at) {
      if (!begins_[static_cast<unsigned char>(token[at])]) continue;
      for (size_t size = 1; size <= std::min(longest_, token.size() - at); ++size) {
        if (texts_.contains(std::string(token.substr(at, size)))) return true;
      }
    }
    return false;
  }

 private:
  std::array<bool, 256> begins_{};
  size_t longest_ = 0;
  std::unordered_set<std::string> texts_;
};

// Sorts the added tokens that are no special ones. Those without a mark are cut out of a text as
// they are. Those with marks that merges make, as Gemma's runs of spaces, become normal tokens:
// a text has spaces in the place of marks, so that it is the merges which make them there.
CutOut sort_added(const Json& json, const std::vector<std::string>& tokens,
                  std::vector<int32_t>& types, std::vector<std::string>& warnings) {
  CutOut cut_out;
  if (!is_given(json, "added_tokens")) return cut_out;
  const Json& vocabulary = json.at("model").at("vocab");
  bool marked = false;
  for (const Json& added : json.at("added_tokens")) {
    const auto id = added.at("id").get<size_t>();
    const std::string& text = tokens[id];
    if (types[id] != kGgufUserDefined || text.empty()) continue;
    const bool plain = !added.value("single_word", false) && !added.value("lstrip", false) &&
                       !added.value("rstrip", false);
    if (plain && text.find(kSpaceMark) == std::string::npos &&
        text.find(' ') == std::string::npos) {
      cut_out.add(text);
    } else if (plain && !added.value("normalized", true) && vocabulary.contains(text)) {
      types[id] = kGgufNormal;
      marked = true;
    }
  }
  if (marked) {
    warnings.push_back(
        "in llama.cpp a U+2581 in a text is a space; this tokenizer tells some runs of it from "
        "spaces");
  }
  return cut_out;
}

bool begins_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) != 0x80; }

class Scores {
 public:
  Scores(const std::vector<std::string>& tokens, const std::vector<int32_t>& types,
         const CutOut& cut_out, const std::string& where)
      : tokens_(tokens), types_(types), where_(where), merges_(tokens.size(), 0) {
    for (size_t id = 0; id < tokens.size(); ++id) {
      never_.push_back(cut_out.is_in(tokens[id]));
      const bool known = types[id] == kGgufNormal || types[id] == kGgufByte;
      if (known || never_.back()) ids_.emplace(tokens[id], id);
    }
  }

  std::vector<float> of(const Json& merges) {
    std::vector<float> scores(tokens_.size(), kLowestScore);
    int64_t place = 0;
    size_t last = tokens_.size();
    for (const Json& merge : merges) {
      const size_t made = made_by(merge);
      if (never_[made]) continue;
      if (made != last && merges_[made] > 0) {
        no_gguf_equivalent(where_, "merges that make \"" + printable(tokens_[made]) +
                                       "\" at two places of their order");
      }
      if (made != last) scores[made] = static_cast<float>(-place++);
      ++merges_[made];
      last = made;
    }
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (types_[id] == kGgufNormal && !never_[id]) check_cuts(id);
    }
    return scores;
  }

 private:
  size_t made_by(const Json& merge) const {
    std::string left, right;
    if (merge.is_string()) {
      const std::string text = merge.get<std::string>();
      const size_t space = text.find(' ');
      left = text.substr(0, space);
      right = space == std::string::npos ? "" : text.substr(space + 1);
    } else {
      left = merge.at(0).get<std::string>();
      right = merge.at(1).get<std::string>();
    }
    const auto found = ids_.find(left + right);
    if (!ids_.contains(left) || !ids_.contains(right) || found == ids_.end()) {
      no_gguf_equivalent(where_, "the merge " + printable(merge.dump(), 200) +
                                     " of or into a token that is an added one, or none");
    }
    return found->second;
  }

  // llama.cpp makes a token of any two others, so all such pairs must be merges.
  void check_cuts(size_t id) const {
    const std::string_view token = tokens_[id];
    if (token.size() > kMostTokenBytes) {
      no_gguf_equivalent(where_, fmt::format("a token of {} bytes", token.size()));
    }
    int64_t cuts = 0;
    for (size_t at = 1; at < token.size(); ++at) {
      if (!begins_character(token[at])) continue;
      cuts += may_be_symbol(token.substr(0, at)) && may_be_symbol(token.substr(at)) ? 1 : 0;
    }
    if (cuts == merges_[id]) return;
    no_gguf_equivalent(where_, fmt::format("{} merges that make \"{}\", where llama.cpp has {}",
                                           merges_[id], printable(tokens_[id]), cuts));
  }

  // A token, or a single character: llama.cpp begins with these whether or not they are tokens.
  bool may_be_symbol(std::string_view text) const {
    const bool single =
        std::none_of(text.begin() + 1, text.end(), [](char c) { return begins_character(c); });
    return single || ids_.contains(std::string(text));
  }

  const std::vector<std::string>& tokens_;
  const std::vector<int32_t>& types_;
  const std::string& where_;
  std::vector<bool> never_;      // tokens that no text makes: a part is cut out of it before
  std::vector<int64_t> merges_;  // that make a token
  std::unordered_map<std::string, size_t> ids_;
};

}  // namespace

bool is_sentencepiece(const Json& tokenizer_json) {
  return tokenizer_json.at("model").value("byte_fallback", false);
}

SentencePiece sentencepiece_of(const Json& tokenizer_json, const std::vector<std::string>& tokens,
                               const std::vector<int32_t>& types, const std::string& where) {
  const Json& model = tokenizer_json.at("model");
  if (model.value("ignore_merges", false)) no_gguf_equivalent(where, "ignore_merges with bytes");
  Spaces spaces = spaces_of(tokenizer_json, where);
  SentencePiece result;
  result.types = types;
  result.space_prefix = spaces.prefix;
  if (!spaces.warning.empty()) result.warnings.push_back(std::move(spaces.warning));
  // Mark the bytes and the unknown token.
  std::unordered_map<std::string, size_t> ids;
  for (size_t id = 0; id < tokens.size(); ++id) ids.emplace(tokens[id], id);
  for (int64_t byte = 0; byte < kBytes; ++byte) {
    const std::string name = fmt::format("<0x{:02X}>", byte);
    const auto found = ids.find(name);
    if (found != ids.end()) {
      result.types[found->second] = kGgufByte;
      continue;
    }
    // As in Gemma, whose tab is a token of its own: llama.cpp then takes the character.
    const std::string character(1, static_cast<char>(byte));
    if (byte >= 0x80 || !ids.contains(character)) {
      no_gguf_equivalent(where, "no token for the byte " + name);
    }
  }
  if (is_given(model, "unk_token")) {
    const auto found = ids.find(model.at("unk_token").get<std::string>());
    if (found != ids.end()) {
      result.unknown = static_cast<int64_t>(found->second);
      result.types[found->second] = kGgufUnknown;
    }
  }
  const CutOut cut_out = sort_added(tokenizer_json, tokens, result.types, result.warnings);
  result.scores = Scores(tokens, result.types, cut_out, where).of(model.at("merges"));
  return result;
}

}  // namespace osp
