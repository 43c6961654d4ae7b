// osp serve: answers requests of OpenAI's API on this machine with a quantized model.
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/memory.h"
#include "osp/base/sha256.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/model/model_dir.h"
#include "osp/runtime/panel_file.h"
#include "osp/runtime/runtime_model.h"
#include "osp/serve/engine_text_model.h"
#include "osp/serve/service.h"

namespace osp {
namespace {

struct ServeCommand {
  CommonOptions common;
  std::string model;
  int64_t port = 8080;
  std::vector<std::string> hosts;
  std::string api_key_file;
  int64_t threads = 0;
  std::string head = "8";
  int64_t max_context = 0;
  int64_t cache_mb = 1024;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_model(visit, self.model);
    visit.group("Server");
    visit("port", self.port, Range{0, 65535}, "port on 127.0.0.1; 0 = any free port");
    visit("allow_host", self.hosts,
          "further Host name to answer to, with its port, for a proxy or tunnel in front",
          {.value = "HOST:PORT"});
    visit("api_key_file", self.api_key_file,
          "file with the keys that clients may send, one a line; without it OSP_API_KEY of the "
          "environment, if that is set",
          {.value = "FILE"});
    visit.group("Engine");
    visit("threads", self.threads, Range{0, 1024}, "number of threads; 0 = one per available core");
    visit(
        "head", self.head, Choices{{"16", "8", "4"}},
        "bits of the output layer's weights; the most likely token is that of 16 bits in any case",
        {.unit = "bits"});
    visit("max_context", self.max_context, Range{0, 1 << 30},
          "largest number of tokens of a prompt and its answer; 0 = the model's context");
    visit("cache_mb", self.cache_mb, Range{1, 1 << 24},
          "memory for keys and values of all texts, in progress and kept", {.unit = "MB"});
    CommonOptions::fields(visit, self.common);
  }
};

std::vector<std::string> keys_of(const ServeCommand& options) {
  std::string text;
  if (!options.api_key_file.empty()) {
    text = read_file(options.api_key_file, 1 << 20);
  } else if (const char* key = std::getenv("OSP_API_KEY")) {
    text = key;
    if (text.empty()) return {};
  } else {
    return {};
  }
  std::vector<std::string> keys;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string key = text.substr(begin, end - begin);
    while (!key.empty() && (key.back() == '\r' || key.back() == ' ')) key.pop_back();
    if (!key.empty()) keys.push_back(std::move(key));
    begin = end + 1;
  }
  if (keys.empty()) {
    fail(ErrorCode::usage, "--api-key-file {}: has no key", options.api_key_file);
  }
  return keys;
}

int64_t available_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

// The name that clients know the model by: its folder's.
std::string model_id(const std::string& dir) {
  std::filesystem::path path = std::filesystem::weakly_canonical(dir);
  if (path.filename() == "model" && path.has_parent_path()) path = path.parent_path();
  return path.filename().string();
}

// Changes when the model or the engine's arithmetic does; the same for a folder and its panels.
std::string fingerprint_of(const std::string& dir) {
  const std::string panels = dir + "/" + kPanelFile;
  Sha256 all;
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    const bool from_panels = std::string_view(name) == "model.safetensors" && path_exists(panels);
    const std::string hash =
        from_panels ? panel_file_source(panels) : sha256_file(dir + "/" + name);
    all.update(hash.data(), hash.size());
  }
  return fmt::format("osp-{}-{}", kEngineNumerics, all.hex().substr(0, 16));
}

int64_t pages_of_memory(const ServeCommand& options, const Engine& engine) {
  const int64_t page = engine.kv_shape().page_bytes();
  require_memory(static_cast<double>(options.cache_mb << 20),
                 fmt::format("--cache-mb {}", options.cache_mb), "give a smaller one");
  const int64_t pages = (options.cache_mb << 20) / page;
  if (pages > 0) return pages;
  fail(ErrorCode::usage, "--cache-mb {}: a page of {} tokens takes {} for this model; give more",
       options.cache_mb, kernels::kPageTokens, format_bytes(static_cast<double>(page)));
}

int run(const ServeCommand& options) {
  const std::vector<std::string> keys = keys_of(options);
  block_stop_signals();
  // The model.
  const std::string dir = find_model_dir(options.model);
  const Tokenizer tokenizer = Tokenizer::from_file(dir);
  const int64_t threads = options.threads > 0 ? options.threads : available_cores();
  const auto engine = load_engine(dir, {.threads = threads, .head_bits = std::stoll(options.head)});
  const ModelConfig& config = engine->config();
  const ChatPrompt chat(load_chat_template(dir), load_special_token_texts(dir));
  ServedModel model{.id = model_id(dir),
                    .fingerprint = fingerprint_of(dir),
                    .vocabulary = config.vocabulary,
                    .drawable = std::min(config.vocabulary, tokenizer.vocabulary()),
                    .tokenizer = &tokenizer,
                    .chat = &chat};
  for (const int64_t id : chat_end_tokens(dir, tokenizer)) {
    model.end_tokens.push_back(static_cast<int32_t>(id));
  }
  // What fits.
  const int64_t pages = pages_of_memory(options, *engine);
  model.context = std::min(config.context, pages * kernels::kPageTokens);
  if (options.max_context > 0) model.context = std::min(model.context, options.max_context);
  const SchedulerOptions scheduler{
      .most_pages = pages, .drawable = model.drawable, .end_tokens = model.end_tokens};
  // Serve.
  const auto say = [&](const std::string& url) {
    print_result(
        options.common,
        [&] {
          Json json;
          json["url"] = url;
          json["model"] = model.id;
          json["kernels"] = engine->kernel_names();
          json["threads"] = engine->threads();
          json["head_bits"] = std::stoll(options.head);
          json["context"] = model.context;
          return json;
        },
        [&] {
          print_out(
              "serving {0} at {1}v1 ({2}), {3} thread{4}, {5}-bit head, context of {6}; chat at "
              "{1}\n",
              model.id, url, engine->kernel_names(), threads, threads == 1 ? "" : "s", options.head,
              model.context);
        });
    flush_stdout();
  };
  EngineTextModel texts(*engine);
  run_service(model, texts, scheduler,
              {.port = static_cast<int>(options.port),
               .hosts = options.hosts,
               .keys = keys,
               .serving = say});
  return 0;
}

}  // namespace

void add_serve(CommandLine& line) {
  line.command<ServeCommand>(
      "serve", "answer requests of OpenAI's API with a quantized model on this machine", run);
}

}  // namespace osp
