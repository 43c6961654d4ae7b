#include "osp/export/gguf_tokenizer.h"

#include <algorithm>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/base/printable.h"
#include "osp/export/gguf_sentencepiece.h"
#include "osp/tokenizer/gguf.h"

namespace osp {
namespace {

[[noreturn]] void no_keys(const std::string& where, const std::string& what) {
  fail(ErrorCode::unsupported,
       "{}: the post-processor {} puts more around a text than one token in front and one behind, "
       "for which alone the format has keys; export with --format hf instead",
       where, what);
}

bool has_value(const Json& json, const char* key) {
  return json.is_object() && json.contains(key) && !json.at(key).is_null();
}

std::string shown(const Json& json) { return printable(json.dump(), 200); }

struct Tokens {
  std::vector<std::string> texts;
  std::vector<int32_t> types;
};

void place(Tokens& tokens, const Json& id, const std::string& text, int32_t type,
           const std::string& where) {
  if (!id.is_number_unsigned() || id.get<uint64_t>() >= tokens.texts.size()) {
    fail(ErrorCode::damaged,
         "{}: token \"{}\" has the id {}, but the model has {} rows of embedding", where,
         printable(text), shown(id), tokens.texts.size());
  }
  const auto index = id.get<uint64_t>();
  tokens.texts[index] = text;
  tokens.types[index] = type;
}

Tokens read_tokens(const Json& json, int64_t vocabulary, const std::string& where) {
  Tokens tokens;
  for (int64_t id = 0; id < vocabulary; ++id) tokens.texts.push_back(fmt::format("[PAD{}]", id));
  tokens.types.assign(tokens.texts.size(), kGgufUnused);
  for (const auto& [text, id] : json.at("model").at("vocab").items()) {
    place(tokens, id, text, kGgufNormal, where);
  }
  if (has_value(json, "added_tokens")) {
    for (const Json& added : json.at("added_tokens")) {
      const bool special = added.value("special", false);
      place(tokens, added.at("id"), added.at("content").get<std::string>(),
            special ? kGgufControl : kGgufUserDefined, where);
    }
  }
  return tokens;
}

std::vector<std::string> read_merges(const Json& model, const std::string& where) {
  std::vector<std::string> merges;
  for (const Json& merge : model.at("merges")) {
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>());
    if (std::count(merges.back().begin(), merges.back().end(), ' ') != 1) {
      no_gguf_equivalent(where, "the merge " + shown(merge) + " of tokens with spaces");
    }
  }
  return merges;
}

// llama.cpp's name for the way text is cut and words become tokens.
std::string pre_tokenizer_name(const Json& json, const std::string& where,
                               std::vector<std::string>& warnings) {
  const Json& model = json.at("model");
  if (has_value(json, "normalizer")) {
    const Json& normalizer = json.at("normalizer");
    if (normalizer.value("type", "") != "NFC") {
      no_gguf_equivalent(where, "the normalizer " + shown(normalizer));
    }
    warnings.push_back(
        "llama.cpp does not bring text into the normal form NFC, as this tokenizer does: text that "
        "is in another form (letters with separate accents) is cut into other tokens there");
  }
  const Json pre = json.contains("pre_tokenizer") ? json.at("pre_tokenizer") : Json();
  const bool whole_words = model.value("ignore_merges", false);
  std::string name(gguf_pre_tokenizer_name(pre, whole_words));
  if (name.empty()) {
    const bool known = !gguf_pre_tokenizer_name(pre, !whole_words).empty();
    no_gguf_equivalent(where, !known ? "the pre-tokenizer " + shown(pre)
                                     : fmt::format("ignore_merges = {} with the pre-tokenizer {}",
                                                   whole_words, shown(pre)));
  }
  if (name == "tekken" || name == "gpt-4o") {
    warnings.push_back(
        "llama.cpp takes letters outside of a-z and A-Z for capital and small ones alike, which "
        "this tokenizer tells apart: some words of other alphabets, and accented letters, are cut "
        "elsewhere there");
  }
  return name;
}

// The tokens that the post-processor puts before and after a text; only single ones have keys.
struct Around {
  int64_t before = -1;
  int64_t after = -1;
};
Around read_post_processor(const Json& json, const std::string& where) {
  Around around;
  if (!has_value(json, "post_processor")) return around;
  // Of a sequence (Llama 3) the one part that adds something; ByteLevel is about offsets.
  Json processor = nullptr;
  const Json whole = json.at("post_processor");
  const bool sequence = whole.value("type", "") == "Sequence";
  for (const Json& part : sequence ? whole.at("processors") : Json::array({whole})) {
    const std::string type = part.value("type", "");
    if (type == "ByteLevel") continue;
    if (type != "TemplateProcessing" || !processor.is_null()) no_keys(where, shown(whole));
    processor = part;
  }
  if (processor.is_null()) return around;
  bool text_seen = false;
  for (const Json& part : processor.at("single")) {
    if (part.contains("Sequence")) {
      text_seen = true;
      continue;
    }
    const std::string name = part.at("SpecialToken").at("id").get<std::string>();
    const Json& ids = processor.at("special_tokens").at(name).at("ids");
    int64_t& side = text_seen ? around.after : around.before;
    if (side >= 0 || ids.size() != 1) no_keys(where, shown(processor));
    side = ids.at(0).get<int64_t>();
  }
  return around;
}

// The keys of one of the two models; the first token of a text without one of its own.
struct Written {
  std::vector<std::string> warnings = {};
  int64_t first = -1;
};

Written write_byte_level(const Json& json, const Tokens& tokens, const std::string& where,
                         GgufMetadataWriter& metadata) {
  Written written;
  const std::string pre = pre_tokenizer_name(json, where, written.warnings);
  metadata.text("tokenizer.ggml.model", "gpt2");
  metadata.text("tokenizer.ggml.pre", pre);
  metadata.texts("tokenizer.ggml.tokens", tokens.texts);
  metadata.i32s("tokenizer.ggml.token_type", tokens.types);
  metadata.texts("tokenizer.ggml.merges", read_merges(json.at("model"), where));
  metadata.flag("tokenizer.ggml.add_space_prefix", false);
  return written;
}

Written write_sentencepiece(const Json& json, const Tokens& tokens, const std::string& where,
                            GgufMetadataWriter& metadata) {
  const SentencePiece pieces = sentencepiece_of(json, tokens.texts, tokens.types, where);
  metadata.text("tokenizer.ggml.model", "llama");
  metadata.text("tokenizer.ggml.pre", "default");
  metadata.texts("tokenizer.ggml.tokens", tokens.texts);
  metadata.f32s("tokenizer.ggml.scores", pieces.scores);
  metadata.i32s("tokenizer.ggml.token_type", pieces.types);
  metadata.flag("tokenizer.ggml.add_space_prefix", pieces.space_prefix);
  if (pieces.unknown >= 0) {
    metadata.u32("tokenizer.ggml.unknown_token_id", static_cast<uint32_t>(pieces.unknown));
  }
  const auto begin = std::find(tokens.texts.begin(), tokens.texts.end(), "<s>");
  return {pieces.warnings,
          begin == tokens.texts.end() ? -1 : int64_t(begin - tokens.texts.begin())};
}

}  // namespace

void no_gguf_equivalent(const std::string& where, const std::string& what) {
  fail(ErrorCode::unsupported,
       "{}: the tokenizer has {}, for which llama.cpp has no name: it would cut text into other "
       "tokens than the model knows; export with --format hf instead",
       where, what);
}

std::vector<std::string> add_gguf_tokenizer(std::string_view tokenizer_json, int64_t vocabulary,
                                            const std::vector<int64_t>& end_tokens,
                                            const std::string& where,
                                            GgufMetadataWriter& metadata) {
  const Json json = parse_json(tokenizer_json, where);
  try {
    const Tokens tokens = read_tokens(json, vocabulary, where);
    const Around around = read_post_processor(json, where);
    const auto write = is_sentencepiece(json) ? write_sentencepiece : write_byte_level;
    const Written written = write(json, tokens, where, metadata);
    const int64_t first = end_tokens.empty() ? -1 : end_tokens[0];
    const int64_t end = around.after >= 0 ? around.after : first;
    metadata.flag("tokenizer.ggml.add_bos_token", around.before >= 0);
    metadata.flag("tokenizer.ggml.add_eos_token", around.after >= 0);
    // Readers that find no first token invent one; a text without any begins like a new document.
    const int64_t begin = around.before >= 0   ? around.before
                          : written.first >= 0 ? written.first
                                               : end;
    if (begin >= 0) metadata.u32("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(begin));
    if (end >= 0) metadata.u32("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(end));
    // Other tokens that end a text have keys of their own.
    std::vector<const char*> names = {"eom_token_id", "eot_token_id"};
    for (const int64_t id : end_tokens) {
      if (id == end || names.empty()) continue;
      metadata.u32(std::string("tokenizer.ggml.") + names.back(), static_cast<uint32_t>(id));
      names.pop_back();
    }
    return written.warnings;
  } catch (const Json::exception& error) {
    fail(ErrorCode::damaged, "{}: {}", where, printable(error.what(), 200));
  }
}

}  // namespace osp
