// Feeds arbitrary bytes to the reader of tokenizer.json. An accepted file must encode and decode a
// few texts: an error is allowed, a crash or a read outside the text is not.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/accepted.h"
#include "fuzz/json_mutator.h"
#include "osp/base/error.h"
#include "osp/tokenizer/tokenizer.h"

namespace {

constexpr const char* kKeys[] = {"type",
                                 "content",
                                 "id",
                                 "Sequence",
                                 "ByteLevel",
                                 "model",
                                 "add_prefix_space",
                                 "pretokenizers",
                                 "pattern",
                                 "merges",
                                 "Replace",
                                 "String",
                                 "use_regex",
                                 "added_tokens",
                                 "Strip",
                                 "vocab",
                                 "unk_token",
                                 "post_processor",
                                 "normalized",
                                 "Digits",
                                 "single",
                                 "replacement",
                                 "prepend",
                                 "individual_digits",
                                 "Prepend",
                                 "Metaspace",
                                 "stop",
                                 "start",
                                 "rstrip",
                                 "normalizer",
                                 "never",
                                 "fuse_unk",
                                 "decoders",
                                 "decoder",
                                 "always",
                                 "SpecialToken",
                                 "Regex",
                                 "A",
                                 "special_tokens",
                                 "prepend_scheme",
                                 "normalizers",
                                 "invert",
                                 "TemplateProcessing",
                                 "BPE",
                                 "trim_offsets",
                                 "special",
                                 "pre_tokenizer",
                                 "lstrip",
                                 "ignore_merges",
                                 "first",
                                 "dropout",
                                 "Split",
                                 "NFC",
                                 "NFD",
                                 "NFKC",
                                 "NFKD",
                                 "Lowercase",
                                 "type_id",
                                 "tokens",
                                 "strip_right",
                                 "strip_left",
                                 "single_word",
                                 "pair",
                                 "ids",
                                 "byte_fallback",
                                 "behavior",
                                 "Removed",
                                 "Isolated",
                                 "MergedWithPrevious",
                                 "MergedWithNext",
                                 "Contiguous",
                                 "Fuse",
                                 "ByteFallback",
                                 "split",
                                 "processors",
                                 "a",
                                 "b",
                                 "a b",
                                 "ab",
                                 "\\s+",
                                 "\\p{L}+|\\p{N}",
                                 "(?i:'s|'t)|[^\\r\\n]+",
                                 "(?!\\S)",
                                 "[^a-z]{1,3}"};

using osp::fuzz::Dice;
using osp::fuzz::Tree;

const Tree& some_component(const std::string& part, Dice& dice) {
  static const Tree kNormalizers = Tree::parse(R"([{"type": "NFC"}, {"type": "NFKD"}, null,
      {"type": "Lowercase"}, {"type": "Prepend", "prepend": "\u2581"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
      {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": "a"},
      {"type": "Strip", "strip_left": true, "strip_right": false}])");
  static const Tree kSplits = Tree::parse(R"([{"type": "ByteLevel", "add_prefix_space": true},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}, null,
      {"type": "Digits", "individual_digits": true},
      {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": true},
      {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+(?!\\S)|b"}, "behavior": "Isolated"},
      {"type": "Split", "pattern": {"String": "a"}, "behavior": "MergedWithNext", "invert": true},
      {"type": "Split", "pattern": {"Regex": "a|"}, "behavior": "Removed", "invert": false}])");
  static const Tree kDecoders = Tree::parse(R"([{"type": "ByteLevel"}, {"type": "Fuse"}, null,
      {"type": "ByteFallback"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1},
      {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
      {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}])");
  return dice.one_of(part == "normalizer" ? kNormalizers : part == "decoder" ? kDecoders : kSplits);
}

// Gives a part a known component, or two in a sequence.
void set_component(Tree& file, Dice& dice) {
  static const std::string kParts[] = {"normalizer", "pre_tokenizer", "decoder"};
  static const std::string kLists[] = {"normalizers", "pretokenizers", "decoders"};
  const size_t part = dice.below(3);
  file[kParts[part]] = some_component(kParts[part], dice);
  if (!dice.one_in(3)) return;
  Tree list = Tree::array();
  for (int i = 0; i < 2; ++i) {
    const Tree& component = some_component(kParts[part], dice);
    if (!component.is_null()) list.push_back(component);
  }
  file[kParts[part]] = {{"type", "Sequence"}, {kLists[part], list}};
}

void add_token(Tree& file, Dice& dice) {
  file["added_tokens"].push_back({{"id", dice.below(300)},
                                  {"content", osp::fuzz::some_text(dice)},
                                  {"single_word", dice.one_in(2)},
                                  {"lstrip", dice.one_in(2)},
                                  {"rstrip", dice.one_in(2)},
                                  {"normalized", dice.one_in(2)},
                                  {"special", dice.one_in(2)}});
}

// A merge of two tokens, and its result.
void add_merge(Tree& model, Dice& dice) {
  std::vector<std::string> tokens;
  for (const auto& [token, id] : model["vocab"].items()) tokens.push_back(token);
  if (tokens.empty()) return;
  const std::string first = dice.one_of(tokens), second = dice.one_of(tokens);
  model["vocab"][first + second] = tokens.size();
  if (model["merges"].empty() || model["merges"][0].is_string()) {
    model["merges"].push_back(first + " " + second);
  } else {
    model["merges"].push_back({first, second});
  }
}

// A component, an added token, a merge, or any node of the file.
std::string mutated(std::string_view text, Dice& dice) {
  Tree file = osp::fuzz::json_tree(text);
  if (file.is_discarded()) return "";
  const auto has = [](const Tree& object, const char* key, Tree::value_t type) {
    return object.is_object() && object.contains(key) && object[key].type() == type;
  };
  const size_t choice = dice.below(5);
  if (choice < 2 && file.is_object()) {
    set_component(file, dice);
  } else if (choice == 2 && has(file, "added_tokens", Tree::value_t::array)) {
    add_token(file, dice);
  } else if (choice == 3 && has(file, "model", Tree::value_t::object) &&
             has(file["model"], "vocab", Tree::value_t::object) &&
             has(file["model"], "merges", Tree::value_t::array)) {
    add_merge(file["model"], dice);
  } else {
    osp::fuzz::JsonMutator(kKeys, dice).mutate(file);
  }
  return osp::fuzz::json_text_of(file);
}

}  // namespace

OSP_MUTATOR(mutated)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::string_view kTexts[] = {
      "",
      "The  year 1913, it's \xC3\xA9t\xC3\xA9\n\n<s></s> <x>",
      "\xE2\x96\x81\xE6\x97\xA5\xE6\x9C\xAC\xF0\x9F\x98\x80\xCC\x81\xCC\xA3",
      "\xFF\xE2\x96 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
  };
  try {
    const osp::Tokenizer tokenizer =
        osp::Tokenizer::from_json({reinterpret_cast<const char*>(data), size}, "input");
    osp::fuzz::accepted(data, size);
    for (const std::string_view text : kTexts) {
      const std::vector<int32_t> ids = tokenizer.encode(text, {.add_special_tokens = true});
      OSP_CHECK(ids == tokenizer.encode(text, {.add_special_tokens = true}), "ids changed");
      for (const int32_t id : ids) OSP_CHECK(id >= 0, "negative id {}", id);
      tokenizer.decode(ids, true);
      for (const int32_t id : ids) tokenizer.token_text(id);
    }
  } catch (const osp::Error&) {
  }
  return 0;
}
