// Rules for cutting text into words, under llama.cpp's names for them.
#include <algorithm>
#include <array>

#include "osp/tokenizer/gguf.h"

namespace osp {
namespace {

// A published way of cutting text; several names stand for the same one.
enum class Cut { gpt2, digits_gpt2, llama3, qwen2, tekken, gpt4o, seed, fallback };

struct Name {
  std::string_view name;
  Cut cut;
  bool whole_words = false;  // see gguf_takes_whole_words()
};

// The first name of each cut, of those that take whole words and of those that do not, is the one
// that osp writes.
constexpr std::array<Name, 43> kNames = {{
    {"gpt-2", Cut::gpt2},
    {"phi-2", Cut::gpt2},
    {"mpt", Cut::gpt2},
    {"olmo", Cut::gpt2},
    {"jais", Cut::gpt2},
    {"trillion", Cut::gpt2},
    {"granite-docling", Cut::gpt2},
    {"exaone4", Cut::gpt2},
    {"gigachat", Cut::gpt2},
    {"a.x-4.0", Cut::gpt2},
    {"mellum", Cut::gpt2},
    {"modern-bert", Cut::gpt2},
    {"smollm", Cut::digits_gpt2},
    {"starcoder", Cut::digits_gpt2},
    {"refact", Cut::digits_gpt2},
    {"command-r", Cut::digits_gpt2},
    {"codeshell", Cut::digits_gpt2},
    {"exaone", Cut::digits_gpt2},
    {"minerva-7b", Cut::digits_gpt2},
    {"llama-bpe", Cut::llama3, true},
    {"llama3", Cut::llama3, true},
    {"llama-v3", Cut::llama3, true},
    {"falcon3", Cut::llama3, true},
    {"falcon-h1", Cut::llama3, true},
    {"pixtral", Cut::llama3, true},
    {"midm-2.0", Cut::llama3, true},
    {"lfm2", Cut::llama3, true},
    {"smaug-bpe", Cut::llama3},
    {"dbrx", Cut::llama3},
    {"chatglm-bpe", Cut::llama3},
    {"glm4", Cut::llama3},
    {"qwen2", Cut::qwen2},
    {"deepseek-r1-qwen", Cut::qwen2},
    {"megrez", Cut::qwen2},
    {"stablelm2", Cut::qwen2},
    {"hunyuan", Cut::qwen2},
    {"kormo", Cut::qwen2},
    {"tekken", Cut::tekken, true},
    {"gpt-4o", Cut::gpt4o},
    {"llama4", Cut::gpt4o},
    {"kanana2", Cut::gpt4o},
    {"seed-coder", Cut::seed},
    {"default", Cut::fallback},
}};

constexpr const char* kLlama3 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kQwen2 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
// Words begin with a capital letter; o200k has the English contractions behind them.
constexpr const char* kTekken =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
    "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kGpt4o =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kSeed =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}"
    "| ?[^\\s\\p{L}\\p{N}\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kGpt2 =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

Json byte_level(bool cut) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", cut}};
}

Json split(const char* pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", pattern}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

Json sequence(Json steps) { return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}}; }

Json pre_tokenizer_of(Cut cut) {
  switch (cut) {
    case Cut::gpt2:
      return byte_level(true);
    case Cut::digits_gpt2:
      return sequence(
          Json::array({{{"type", "Digits"}, {"individual_digits", true}}, byte_level(true)}));
    case Cut::llama3:
      return sequence(Json::array({split(kLlama3), byte_level(false)}));
    case Cut::qwen2:
      return sequence(Json::array({split(kQwen2), byte_level(false)}));
    case Cut::tekken:
      return sequence(Json::array({split(kTekken), byte_level(false)}));
    case Cut::gpt4o:
      return sequence(Json::array({split(kGpt4o), byte_level(false)}));
    case Cut::seed:
      return sequence(Json::array({split(kSeed), byte_level(false)}));
    case Cut::fallback:
      break;
  }
  return sequence(Json::array({split("[\\p{P}\\$\\+<=>\\^~\\|]+"), split(kGpt2), split("\\p{N}+"),
                               split("[0-9][0-9][0-9]"), byte_level(false)}));
}

// The keys that decide about the words: defaults filled in, keys about offsets omitted.
Json essence(const Json& component) {
  if (!component.is_object() || !component.contains("type")) return component;
  Json result = component;
  const Json& type = component.at("type");
  if (type == "ByteLevel") {
    result.erase("trim_offsets");
    if (!result.contains("use_regex")) result["use_regex"] = true;
  } else if (type == "Split") {
    if (!result.contains("invert")) result["invert"] = false;
  } else if (type == "Sequence" && component.contains("pretokenizers")) {
    Json steps = Json::array();
    for (const Json& step : component.at("pretokenizers")) steps.push_back(essence(step));
    if (steps.size() == 1) return steps[0];
    result["pretokenizers"] = steps;
  }
  // Members in one order, so that objects compare by content.
  return Json(nlohmann::json(result));
}

}  // namespace

Json gguf_pre_tokenizer(std::string_view name) {
  for (const Name& known : kNames) {
    if (known.name == name) return pre_tokenizer_of(known.cut);
  }
  return nullptr;
}

bool gguf_takes_whole_words(std::string_view name) {
  return std::ranges::any_of(
      kNames, [&](const Name& known) { return known.name == name && known.whole_words; });
}

std::string_view gguf_pre_tokenizer_name(const Json& pre_tokenizer, bool whole_words) {
  const Json wanted = essence(pre_tokenizer);
  for (const Name& known : kNames) {
    if (known.whole_words != whole_words) continue;
    if (essence(pre_tokenizer_of(known.cut)) == wanted) return known.name;
  }
  return "";
}

std::string gguf_pre_tokenizer_names() {
  std::string names;
  for (const Name& known : kNames) names += (names.empty() ? "" : ", ") + std::string(known.name);
  return names;
}

}  // namespace osp
