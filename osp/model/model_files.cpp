#include "osp/model/model_files.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json.h"
#include "osp/formats/gguf.h"
#include "osp/model/gguf_model.h"
#include "osp/model/model_dir.h"
#include "osp/model/wrapped_model.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxJsonBytes = 1 << 20;
constexpr size_t kMaxTokenizerConfigBytes = 64 << 20;
constexpr const char* kChatTemplateKey = "tokenizer.chat_template";
constexpr const char* kTokensKey = "tokenizer.ggml.tokens";

// Endings of files that hold weights.
constexpr std::array<std::string_view, 13> kWeightEndings = {
    ".safetensors", ".bin",    ".pt", ".pth",     ".ckpt",      ".gguf", ".h5",
    ".onnx",        ".tflite", ".ot", ".msgpack", ".onnx_data", ".npz"};
// Files about the form of the weights, and those of a training checkpoint.
constexpr std::array<std::string_view, 8> kOwnFiles = {
    "config.json",          "quantize.json", "quantize_config.json", "quant_config.json",
    "hf_quant_config.json", "trainer.json",  "recipe.json",          "manifest.json"};

// The ids under a key: none, one or a list.
std::vector<int64_t> ids_of(const Json& json, const char* key, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return {};
  const Json list = found->is_array() ? *found : Json::array({*found});
  std::vector<int64_t> ids;
  for (const Json& id : list) {
    if (!is_int64(id)) {
      fail(ErrorCode::damaged, "{}: {} is {}, expected an integer or a list of them", where, key,
           found->dump(-1, ' ', true).substr(0, 60));
    }
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

Json read_object(const std::string& file, size_t max_bytes = kMaxJsonBytes) {
  Json json = read_json_file(file, max_bytes);
  if (!json.is_object()) fail(ErrorCode::damaged, "{}: expected a JSON object", file);
  return json;
}

// config.json, of a text model inside another that which it would have alone.
Json read_config(const std::string& file) {
  Json json = read_object(file);
  return wraps_text_model(json) ? text_model_config(json, file) : json;
}

bool is_own_file(const std::string& name) {
  if (name.starts_with(".") || name.ends_with(".index.json")) return true;
  if (std::ranges::find(kOwnFiles, name) != kOwnFiles.end()) return true;
  return std::ranges::any_of(kWeightEndings,
                             [&](std::string_view ending) { return name.ends_with(ending); });
}

// True if an entry of the source is the output, or what stands beside it while it is made.
bool belongs_to(const fs::path& entry, const fs::path& out) {
  const std::string name = entry.string(), base = out.string();
  return name == base || name == base + ".tmp" || name == base + ".work";
}

void copy_entries(const fs::path& from, const fs::path& to, const fs::path& out) {
  for (const fs::directory_entry& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (is_own_file(name) || belongs_to(fs::weakly_canonical(entry.path()), out)) continue;
    if (!fs::exists(entry.path())) {
      fail(ErrorCode::io, "{}: the link leads nowhere; remove it or put its target back",
           entry.path().string());
    }
    // Linked folders may lead anywhere, even back; folders with a model of their own are no part
    // of this one.
    if (entry.is_directory()) {
      if (entry.is_symlink() || fs::exists(entry.path() / "config.json")) continue;
      copy_entries(entry.path(), to / name, out);
    } else if (entry.is_regular_file()) {
      make_directories(to.string());
      write_file_atomic((to / name).string(), read_file(entry.path().string()));
    }
  }
}

}  // namespace

std::vector<int64_t> load_end_tokens(const std::string& path) {
  if (is_gguf_path(path)) return load_gguf_config(path).end_tokens;
  std::vector<int64_t> ids;
  for (const char* name : {"config.json", "generation_config.json"}) {
    const std::string file = path + "/" + name;
    if (!path_exists(file)) continue;
    const bool is_config = file.ends_with("/config.json");
    const Json json = is_config ? read_config(file) : read_object(file);
    for (const int64_t id : ids_of(json, "eos_token_id", file)) {
      if (std::ranges::find(ids, id) == ids.end()) ids.push_back(id);
    }
  }
  return ids;
}

OuterTokens load_outer_tokens(const std::string& path) {
  const std::string file = path + "/config.json";
  if (is_gguf_path(path) || !path_exists(file)) return {};
  const Json config = read_config(file);
  const auto one = [&](const char* key) {
    const std::vector<int64_t> ids = ids_of(config, key, file);
    return ids.empty() ? -1 : ids.front();
  };
  return {one("bos_token_id"), one("pad_token_id")};
}

std::string load_chat_template(const std::string& path) {
  if (is_gguf_path(path)) {
    const GgufFile file = GgufFile::open(path);
    if (!file.metadata().has(kChatTemplateKey)) return "";
    return std::string(file.metadata().text(kChatTemplateKey));
  }
  if (path_exists(path + "/chat_template.jinja")) return read_file(path + "/chat_template.jinja");
  const std::string file = path + "/tokenizer_config.json";
  if (!path_exists(file)) return "";
  const Json config = read_object(file, kMaxTokenizerConfigBytes);
  const auto found = config.find("chat_template");
  return found != config.end() && found->is_string() ? found->get<std::string>() : "";
}

SpecialTokenTexts load_special_token_texts(const std::string& path) {
  SpecialTokenTexts texts;
  if (is_gguf_path(path)) {
    const GgufFile file = GgufFile::open(path);
    const auto token = [&](const std::string& key) -> std::string {
      if (!file.metadata().has(key) || !file.metadata().has(kTokensKey)) return "";
      const std::vector<std::string_view> tokens = file.metadata().texts(kTokensKey);
      const auto id = static_cast<size_t>(file.metadata().integer(key));
      return id < tokens.size() ? std::string(tokens[id]) : "";
    };
    return {token("tokenizer.ggml.bos_token_id"), token("tokenizer.ggml.eos_token_id")};
  }
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const std::string file = path + "/" + name;
    if (!path_exists(file)) continue;
    const Json config = read_object(file, kMaxTokenizerConfigBytes);
    const auto take = [&](const char* key, std::string& text) {
      auto found = config.find(key);
      if (!text.empty() || found == config.end()) return;
      const Json value = found->is_object() ? found->value("content", Json()) : *found;
      if (value.is_string()) text = value.get<std::string>();
    };
    take("bos_token", texts.begin);
    take("eos_token", texts.end);
  }
  return texts;
}

void copy_model_files(const std::string& source_dir, const std::string& folder,
                      const std::string& out) {
  if (!is_gguf_path(source_dir)) {
    if (is_directory(source_dir)) copy_entries(source_dir, folder, fs::weakly_canonical(out));
    return;
  }
  const std::string chat_template = load_chat_template(source_dir);
  if (Tokenizer::exists(source_dir)) {
    save_tokenizer_files(folder, Tokenizer::from_file(source_dir).json(),
                         load_model_config(source_dir).model.context, load_end_tokens(source_dir));
  }
  if (!chat_template.empty()) write_file_atomic(folder + "/chat_template.jinja", chat_template);
}

}  // namespace osp
