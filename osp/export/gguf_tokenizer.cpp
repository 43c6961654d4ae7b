#include "osp/export/gguf_tokenizer.h"

#include <algorithm>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/base/printable.h"
#include "osp/tokenizer/gguf.h"

namespace osp {
namespace {

constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

[[noreturn]] void no_equivalent(const std::string& where, const std::string& what) {
  fail(ErrorCode::unsupported,
       "{}: the tokenizer has {}, for which llama.cpp has no name: it would cut text into other "
       "tokens than the model knows; export with --format hf instead",
       where, what);
}

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
  tokens.types.assign(tokens.texts.size(), kUnused);
  for (const auto& [text, id] : json.at("model").at("vocab").items()) {
    place(tokens, id, text, kNormal, where);
  }
  if (has_value(json, "added_tokens")) {
    for (const Json& added : json.at("added_tokens")) {
      const bool special = added.value("special", false);
      place(tokens, added.at("id"), added.at("content").get<std::string>(),
            special ? kControl : kUserDefined, where);
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
      no_equivalent(where, "the merge " + shown(merge) + " of tokens with spaces");
    }
  }
  return merges;
}

// llama.cpp's name for the way text is cut and words become tokens.
std::string pre_tokenizer_name(const Json& json, const std::string& where) {
  const Json& model = json.at("model");
  if (model.value("byte_fallback", false)) {
    no_equivalent(where, "a model with byte fallback (SentencePiece)");
  }
  if (has_value(json, "normalizer")) {
    no_equivalent(where, "the normalizer " + shown(json.at("normalizer")));
  }
  const Json pre = json.contains("pre_tokenizer") ? json.at("pre_tokenizer") : Json();
  std::string name(gguf_pre_tokenizer_name(pre));
  if (name.empty()) no_equivalent(where, "the pre-tokenizer " + shown(pre));
  const bool ignore_merges = model.value("ignore_merges", false);
  if (name == "llama-bpe" && !ignore_merges) return "smaug-bpe";  // the same but for that
  if (name != "llama-bpe" && ignore_merges) {
    no_equivalent(where, "ignore_merges with words cut as in " + name);
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

}  // namespace

void add_gguf_tokenizer(std::string_view tokenizer_json, int64_t vocabulary,
                        const std::vector<int64_t>& end_tokens, const std::string& where,
                        GgufMetadataWriter& metadata) {
  const Json json = parse_json(tokenizer_json, where);
  try {
    const std::string pre = pre_tokenizer_name(json, where);
    const Tokens tokens = read_tokens(json, vocabulary, where);
    const Around around = read_post_processor(json, where);
    const int64_t first = end_tokens.empty() ? -1 : end_tokens[0];
    const int64_t end = around.after >= 0 ? around.after : first;
    metadata.text("tokenizer.ggml.model", "gpt2");
    metadata.text("tokenizer.ggml.pre", pre);
    metadata.texts("tokenizer.ggml.tokens", tokens.texts);
    metadata.i32s("tokenizer.ggml.token_type", tokens.types);
    metadata.texts("tokenizer.ggml.merges", read_merges(json.at("model"), where));
    metadata.flag("tokenizer.ggml.add_bos_token", around.before >= 0);
    metadata.flag("tokenizer.ggml.add_eos_token", around.after >= 0);
    metadata.flag("tokenizer.ggml.add_space_prefix", false);
    if (around.before >= 0) {
      metadata.u32("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(around.before));
    } else if (end >= 0) {
      // Readers that find no first token invent one; a text without any begins like a new document.
      metadata.u32("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(end));
    }
    if (end >= 0) metadata.u32("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(end));
    // Other tokens that end a text have keys of their own.
    std::vector<const char*> names = {"eom_token_id", "eot_token_id"};
    for (const int64_t id : end_tokens) {
      if (id == end || names.empty()) continue;
      metadata.u32(std::string("tokenizer.ggml.") + names.back(), static_cast<uint32_t>(id));
      names.pop_back();
    }
  } catch (const Json::exception& error) {
    fail(ErrorCode::damaged, "{}: {}", where, printable(error.what(), 200));
  }
}

}  // namespace osp
