#include "osp/tokenizer/gguf.h"

#include <algorithm>
#include <optional>
#include <unordered_map>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/base/printable.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

// Values of tokenizer.ggml.token_type.
constexpr int64_t kUnknown = 2, kControl = 3, kUserDefined = 4, kByte = 6;

std::string key(const char* name) { return std::string("tokenizer.ggml.") + name; }

struct Vocabulary {
  std::vector<std::string_view> tokens;
  std::vector<int64_t> types;  // one per token
  std::unordered_map<std::string_view, int64_t> ids;
};

Vocabulary read_vocabulary(const GgufMetadata& metadata) {
  Vocabulary result;
  result.tokens = metadata.texts(key("tokens"));
  const auto count = static_cast<int64_t>(result.tokens.size());
  result.types.assign(result.tokens.size(), 1);
  if (metadata.has(key("token_type"))) result.types = metadata.integers(key("token_type"));
  if (result.types.size() != result.tokens.size()) {
    fail(ErrorCode::damaged, "{}: tokenizer.ggml.token_type has {} elements for {} tokens",
         metadata.where(), result.types.size(), count);
  }
  for (int64_t id = 0; id < count; ++id) {
    const auto [place, is_new] = result.ids.emplace(result.tokens[id], id);
    if (!is_new) {
      fail(ErrorCode::damaged, "{}: tokenizer.ggml.tokens has \"{}\" twice, as {} and {}",
           metadata.where(), printable(place->first), place->second, id);
    }
  }
  return result;
}

// The token whose id stands under a key, if the key is there.
std::optional<int64_t> token_of(const GgufMetadata& metadata, const char* name,
                                const Vocabulary& vocabulary) {
  if (!metadata.has(key(name))) return {};
  const int64_t id = metadata.integer(key(name));
  if (id < 0 || id >= static_cast<int64_t>(vocabulary.tokens.size())) {
    fail(ErrorCode::damaged, "{}: tokenizer.ggml.{} is {}, expected the id of one of the {} tokens",
         metadata.where(), name, id, vocabulary.tokens.size());
  }
  return id;
}

bool flag(const GgufMetadata& metadata, const char* name, bool fallback) {
  return metadata.has(key(name)) ? metadata.flag(key(name)) : fallback;
}

bool is_added(int64_t type) { return type == kControl || type == kUserDefined; }

Json added_tokens(const Vocabulary& vocabulary) {
  Json list = Json::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const int64_t type = vocabulary.types[id];
    if (!is_added(type) && type != kUnknown) continue;
    list.push_back({{"id", id},
                    {"content", vocabulary.tokens[id]},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false},
                    {"special", type != kUserDefined}});
  }
  return list;
}

// The template of the tokens before and after a text, null without any.
Json post_processor(const GgufMetadata& metadata, const Vocabulary& vocabulary, bool begins) {
  Json parts = Json::array(), special = Json::object();
  const auto add = [&](const char* id_key) {
    const std::optional<int64_t> id = token_of(metadata, id_key, vocabulary);
    if (!id) {
      fail(ErrorCode::damaged,
           "{}: tokenizer.ggml.{} is missing, though the token is to be added to every text",
           metadata.where(), id_key);
    }
    const std::string content(vocabulary.tokens[static_cast<size_t>(*id)]);
    parts.push_back({{"SpecialToken", {{"id", content}, {"type_id", 0}}}});
    special[content] = {{"id", content}, {"ids", {*id}}, {"tokens", {content}}};
  };
  const bool ends = flag(metadata, "add_eos_token", false);
  if (!begins && !ends) return nullptr;
  if (begins) add("bos_token_id");
  parts.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (ends) add("eos_token_id");
  return {{"type", "TemplateProcessing"},
          {"single", parts},
          {"pair", Json::array()},
          {"special_tokens", special}};
}

// ---- "gpt2": byte-level BPE -------------------------------------------------------------------

// A token that is not written in the byte-level alphabet stands for its own bytes.
std::string in_byte_alphabet(std::string_view token) {
  std::string bytes;
  return tokenizer::append_from_byte_alphabet(token, bytes) ? std::string(token)
                                                            : tokenizer::to_byte_alphabet(token);
}

Json byte_level_tokenizer(const GgufMetadata& metadata, const Vocabulary& vocabulary) {
  // Files from before the key have the fallback's words in llama.cpp as well.
  const std::string pre(metadata.has(key("pre")) ? metadata.text(key("pre")) : "default");
  const Json pre_tokenizer = gguf_pre_tokenizer(pre);
  if (pre_tokenizer.is_null()) {
    fail(ErrorCode::unsupported,
         "{}: tokenizer.ggml.pre is \"{}\", which osp does not know (known: {})", metadata.where(),
         printable(pre), gguf_pre_tokenizer_names());
  }
  nlohmann::json vocab = nlohmann::json::object();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string_view token = vocabulary.tokens[id];
    const bool added = is_added(vocabulary.types[id]);
    const auto place = vocab.emplace(added ? std::string(token) : in_byte_alphabet(token), id);
    if (!place.second) {
      fail(ErrorCode::damaged, "{}: tokenizer.ggml.tokens: {} has the same bytes as {}: \"{}\"",
           metadata.where(), id, place.first.value().dump(), printable(token));
    }
  }
  const bool whole_words = gguf_takes_whole_words(pre);
  Json json;
  json["version"] = "1.0";
  json["added_tokens"] = added_tokens(vocabulary);
  json["normalizer"] = nullptr;
  json["pre_tokenizer"] = pre_tokenizer;
  json["post_processor"] =
      post_processor(metadata, vocabulary, flag(metadata, "add_bos_token", whole_words));
  json["decoder"] = {{"type", "ByteLevel"},
                     {"add_prefix_space", true},
                     {"trim_offsets", true},
                     {"use_regex", true}};
  json["model"] = {{"type", "BPE"},
                   {"byte_fallback", false},
                   {"ignore_merges", whole_words},
                   {"vocab", std::move(vocab)},
                   {"merges", metadata.texts(key("merges"))}};
  return json;
}

// ---- "llama": SentencePiece's BPE -------------------------------------------------------------

struct Merge {
  double score;  // score of the token that it makes
  int64_t left, right;
};

// Every cut of every token into two tokens; the larger score is merged first.
std::vector<Merge> merges_by_score(const GgufMetadata& metadata, const Vocabulary& vocabulary) {
  const std::vector<double> scores = metadata.numbers(key("scores"));
  if (scores.size() != vocabulary.tokens.size()) {
    fail(ErrorCode::damaged, "{}: tokenizer.ggml.scores has {} elements for {} tokens",
         metadata.where(), scores.size(), vocabulary.tokens.size());
  }
  // A token of n bytes has up to n − 1 cuts, each looked up in O(n): only short ones are tokens of
  // text, and the bound keeps the time linear in the file's size.
  constexpr size_t kMaxTokenBytes = 512;
  std::vector<Merge> merges;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const int64_t type = vocabulary.types[id];
    const std::string_view token = vocabulary.tokens[id];
    if (is_added(type) || type == kUnknown || type == kByte) continue;
    if (token.size() > kMaxTokenBytes) {
      fail(ErrorCode::unsupported, "{}: tokenizer.ggml.tokens: {} has {} bytes, osp reads up to {}",
           metadata.where(), id, token.size(), kMaxTokenBytes);
    }
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = vocabulary.ids.find(token.substr(0, cut));
      if (left == vocabulary.ids.end()) continue;
      const auto right = vocabulary.ids.find(token.substr(cut));
      if (right == vocabulary.ids.end()) continue;
      merges.push_back({scores[id], left->second, right->second});
    }
  }
  std::stable_sort(merges.begin(), merges.end(),
                   [](const Merge& a, const Merge& b) { return a.score > b.score; });
  return merges;
}

// The metadata has no way to say that spaces stay spaces, so this is the whole of SentencePiece's
// text form: a space before the text (unless told otherwise), U+2581 for each space.
Json space_marks(bool prefix) {
  Json steps = Json::array();
  if (prefix) steps.push_back({{"type", "Prepend"}, {"prepend", "\u2581"}});
  steps.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}});
  return {{"type", "Sequence"}, {"normalizers", steps}};
}

Json space_decoder(bool prefix) {
  Json steps = Json::array({
      {{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
      {{"type", "ByteFallback"}},
      {{"type", "Fuse"}},
  });
  if (prefix) {
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"type", "Sequence"}, {"decoders", steps}};
}

Json sentencepiece_tokenizer(const GgufMetadata& metadata, const Vocabulary& vocabulary) {
  nlohmann::json vocab = nlohmann::json::object();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    vocab.emplace(vocabulary.tokens[id], id);
  }
  Json merges = Json::array();
  for (const Merge& merge : merges_by_score(metadata, vocabulary)) {
    merges.push_back({vocabulary.tokens[static_cast<size_t>(merge.left)],
                      vocabulary.tokens[static_cast<size_t>(merge.right)]});
  }

  // The steps around the model: spaces become U+2581 before it and spaces again behind it.
  const std::optional<int64_t> unknown = token_of(metadata, "unknown_token_id", vocabulary);
  const bool prefix = flag(metadata, "add_space_prefix", true);
  Json json;
  json["version"] = "1.0";
  json["added_tokens"] = added_tokens(vocabulary);
  json["normalizer"] = space_marks(prefix);
  json["pre_tokenizer"] = nullptr;
  json["post_processor"] =
      post_processor(metadata, vocabulary, flag(metadata, "add_bos_token", true));
  json["decoder"] = space_decoder(prefix);
  json["model"] = {
      {"type", "BPE"}, {"unk_token", nullptr}, {"fuse_unk", true}, {"byte_fallback", true}};
  if (unknown) json["model"]["unk_token"] = vocabulary.tokens[static_cast<size_t>(*unknown)];
  json["model"]["vocab"] = std::move(vocab);
  json["model"]["merges"] = std::move(merges);
  return json;
}

}  // namespace

bool gguf_has_tokenizer(const GgufMetadata& metadata) { return metadata.has(key("model")); }

std::string gguf_tokenizer_json(const GgufMetadata& metadata) {
  const std::string model(metadata.text(key("model")));
  if (model != "gpt2" && model != "llama") {
    fail(ErrorCode::unsupported,
         "{}: tokenizer.ggml.model is \"{}\", which osp does not read (known: gpt2, llama)",
         metadata.where(), printable(model));
  }
  const Vocabulary vocabulary = read_vocabulary(metadata);
  const Json json = model == "gpt2" ? byte_level_tokenizer(metadata, vocabulary)
                                    : sentencepiece_tokenizer(metadata, vocabulary);
  return json_text(json);
}

}  // namespace osp
