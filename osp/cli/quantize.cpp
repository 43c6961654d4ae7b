// osp quantize: integers for the linear layers of a model by one method, or a table of methods.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/base/provenance.h"
#include "osp/base/temporary_folder.h"
#include "osp/cli/command.h"
#include "osp/eval/divergence.h"
#include "osp/eval/token_source.h"
#include "osp/model/model_dir.h"
#include "osp/ops/isa.h"
#include "osp/ptq/quantize_model.h"
#include "osp/ptq/quantize_table.h"
#include "osp/ptq/quantized_model_dir.h"

namespace osp {
namespace {

struct QuantizeArguments {
  CommonOptions common;
  std::vector<std::string> models;
  std::string method = "gptq";
  std::string bits = "4-4-4";
  std::string profile = "osp-paper";
  std::string activation_scales = "per-token";
  std::string calibration;
  std::string data;
  std::string out;
  int64_t group = 0;
  int64_t samples = 128;
  int64_t length = 2048;
  int64_t seeds = 1;
  int64_t seed = 0;
  int64_t max_tokens = 0;
  std::string calibration_type = "auto";
  int64_t spin_steps = 100;
  int64_t spin_batch = 8;
  int64_t spin_length = 0;
  int64_t hadamard_block = 0;
  double activation_clip = 1.0;
  double cache_clip = 1.0;
  double memory_gib = 4.0;
  bool asymmetric = false;
  bool report = false;
  bool resume = false;
};

// One model, opened and made ready for every method.
struct Subject {
  std::string name, dir;
  std::unique_ptr<ModelSource> source;
  TokenSource text;                     // of --data; empty without
  std::optional<ParameterStore> whole;  // to compare with, where something is measured
  std::vector<at::Tensor> states;       // of it, see DivergenceOptions
};

// Opens a model and refuses it if one of the methods cannot serve it; reads no tensor.
Subject open_subject(const std::string& path, const std::vector<QuantizeRequest>& requests) {
  Subject subject;
  subject.name = path;
  subject.dir = find_model_dir(path);
  if (is_quantized_model_dir(subject.dir)) {
    fail(ErrorCode::usage, "{}: is quantized already; give the model that it was made from",
         subject.dir);
  }
  subject.source = fused_source(open_model(subject.dir));
  for (const QuantizeRequest& request : requests) {
    check_method_serves(request, subject.source->config());
  }
  return subject;
}

// Reads what the quantized model is measured on and compared with.
void read_measured(Subject& subject, const QuantizeArguments& options, Console& console) {
  if (!options.data.empty()) {
    subject.text = read_token_source(options.data, subject.dir, 0);
    if (!subject.text.warning.empty()) console.warn("{}", subject.text.warning);
    subject.whole = subject.source->read(kWhole);
  }
}

bool wants_bf16(const std::string& type) {
  if (type == "auto") return has_avx512_bf16();
  return type == "bf16";
}

QuantizeRequest request_of(const QuantizeArguments& options, const std::string& method,
                           int64_t seed, Console& console) {
  QuantizeRequest request;
  request.method = parse_method(method);
  request.profile = parse_profile(options.profile);
  request.bits = parse_bits(options.bits);
  request.group = options.group;
  request.symmetric = !options.asymmetric;
  request.activations = parse_activation_mode(options.activation_scales);
  request.calibration = options.calibration;
  request.samples = options.samples;
  request.length = options.length;
  request.seed = static_cast<uint64_t>(seed);
  request.down_block = options.hadamard_block;
  request.clips = {options.activation_clip, options.cache_clip};
  request.spin = {options.spin_steps, options.spin_batch, options.spin_length};
  request.bf16 = wants_bf16(options.calibration_type);
  request.memory_limit_bytes = static_cast<int64_t>(options.memory_gib * 1073741824.0);
  request.stage = [&console](const std::string& stage) { console.line("{}", stage); };
  request.progress = [&console, method](const char* unit, int64_t done, int64_t total,
                                        double seconds_left) {
    console.status(fmt::format("{}: {}/{} {}, {} left", method, done, total, unit,
                               format_duration(seconds_left)));
  };
  request.stop = [] { return stop_requested() != 0; };
  request.warn = [&console](const std::string& text) { console.warn("{}", text); };
  return request;
}

TableEntry measure(Subject& subject, const std::string& folder, const QuantizeArguments& options,
                   Console& console) {
  const QuantizedModel quantized = load_quantized_model_dir(folder);
  const auto tap = quantized.make_tap();
  DivergenceOptions divergence;
  divergence.max_tokens = options.max_tokens;
  divergence.changed_tap = tap.get();
  divergence.original_states = &subject.states;
  divergence.progress = progress_line(console, quantized.info.method, "windows scored");
  const DivergenceResult result =
      measure_divergence(*subject.whole, quantized.store, subject.text.tokens, divergence);
  console.end_status();
  return {.model = subject.name,
          .method = quantized.info.method,
          .original_perplexity = result.original_perplexity(),
          .perplexity = result.changed_perplexity(),
          .divergence = result.divergence,
          .same_choice = result.same_choice,
          .tokens = result.tokens,
          .window = result.window,
          .bytes = subject.text.tokenizer ? static_cast<double>(scored_bytes(
                                                *subject.text.tokenizer, subject.text.tokens,
                                                result.window, result.tokens / (result.window - 1)))
                                          : 0.0,
          .vocabulary = quantized.store.config.vocabulary};
}

// All seeds of one method on one model. The first seed's folder is the one that was asked for; the
// others are measured and removed.
std::vector<TableEntry> run_method(Subject& subject, const std::string& method,
                                   const QuantizeArguments& options, Console& console, Json& json) {
  std::vector<TableEntry> entries;
  for (int64_t i = 0; i < options.seeds; ++i) {
    QuantizeRequest request = request_of(options, method, options.seed + i, console);
    const bool kept = i == 0 && !options.out.empty();
    std::optional<TemporaryFolder> temporary;
    if (!kept) temporary.emplace();
    request.out = kept ? options.out : *temporary / "model";
    request.resume = kept && options.resume;
    const QuantizeOutcome outcome = quantize_model(*subject.source, subject.dir, request);
    console.end_status();
    if (outcome.num_resumed > 0) {
      console.line("{} blocks had been quantized before", outcome.num_resumed);
    }
    if (kept) console.line("wrote {}", options.out);
    Json run = {{"model", subject.name}, {"seed", request.seed}, {"report", outcome.report}};
    if (subject.whole) {
      entries.push_back(measure(subject, request.out, options, console));
      run["measured"] = table_entry_json(entries.back());
    }
    json.push_back(run);
  }
  return entries;
}

void check_options(const QuantizeArguments& options) {
  if (options.models.size() > 1 && !options.out.empty()) {
    fail(ErrorCode::usage, "--out {}: one model at a time can be written, {} were given",
         options.out, options.models.size());
  }
  if (options.method == "all" && !options.out.empty()) {
    fail(ErrorCode::usage, "--out {}: --method all measures methods; choose one to write",
         options.out);
  }
  if (options.report && options.data.empty()) {
    fail(ErrorCode::usage, "--report needs --data: the text on which perplexity is measured");
  }
  if (options.out.empty() && !options.report) {
    fail(ErrorCode::usage,
         "give --out to write the quantized model, --report to measure it, or both");
  }
  if (options.resume && options.out.empty()) {
    fail(ErrorCode::usage, "--resume goes on with what was begun for --out; give the same one");
  }
  if (!options.out.empty()) check_output_dir(options.out);
}

int run(const QuantizeArguments& options) {
  check_options(options);
  const std::vector<std::string> methods =
      options.method == "all" ? table_methods() : std::vector<std::string>{options.method};
  catch_signals();
  Console console(options.common.quiet);
  // Refuse before any work: for every method, then for every model.
  std::vector<QuantizeRequest> requests;
  for (const std::string& method : methods) {
    requests.push_back(request_of(options, method, options.seed, console));
    check_request(requests.back());
  }
  std::vector<Subject> subjects;
  for (const std::string& path : options.models) subjects.push_back(open_subject(path, requests));
  Table table;
  Json json = {{"bits", options.bits}, {"profile", options.profile}, {"runs", Json::array()}};
  record_provenance(json);
  for (Subject& subject : subjects) {
    read_measured(subject, options, console);
    for (const std::string& method : methods) {
      for (TableEntry& entry : run_method(subject, method, options, console, json["runs"])) {
        table.entries.push_back(std::move(entry));
      }
    }
    subject = {};  // one whole model in memory at a time
  }
  table.bits = options.bits;
  if (options.common.json) {
    print_json(json);
  } else if (!table.entries.empty()) {
    fmt::print("{}", table_text(table));
  }
  return 0;
}

}  // namespace

void add_quantize(CommandLine& line) {
  auto options = std::make_shared<QuantizeArguments>();
  Command command = line.command("quantize", "integers for weights, activations and cache");
  add_common_options(command, options->common);
  command.add("model", options->models, "model dirs, checkpoints or finished runs").required();
  command.add("--method", options->method, method_help());
  command.add("--bits", options->bits, "weights-activations-cache; each 2 to 8, or 16 for none");
  command.add("--group", options->group, "columns of a weight that share a scale; 0: a whole row")
      .between(int64_t{0}, int64_t{65536});
  command.add("--profile", options->profile,
              "osp-paper: the reference's settings; best: what we would ship");
  command.add("--activation-scales", options->activation_scales,
              "per-token, after-norm (one constant after each norm) or per-tensor (calibrated)");
  command.add("--calibration", options->calibration,
              "token shards, or a text, JSON lines or Parquet file");
  command.add("--samples", options->samples, "calibration windows")
      .between(int64_t{1}, int64_t{1} << 20);
  command.add("--length", options->length, "tokens of a window, at most the trained context")
      .between(int64_t{2}, int64_t{1} << 20);
  command.add("--seed", options->seed, "of windows and random rotations")
      .between(int64_t{0}, int64_t{1} << 40);
  command.add("--seeds", options->seeds, "repeat with this many seeds; mean and deviation")
      .between(int64_t{1}, int64_t{1000});
  command.add("--data", options->data, "token shards (held-out split) or a text to measure on");
  command.add("--max-tokens", options->max_tokens, "measure within the first N tokens; 0: all")
      .between(int64_t{0}, int64_t{1} << 40);
  command
      .add("--calibration-type", options->calibration_type,
           "of the forward pass over calibration windows; auto: bf16 where the CPU multiplies it")
      .one_of({"auto", "bf16", "fp32"});
  command
      .add("--hadamard-block", options->hadamard_block,
           "size of the diagonal blocks of the Hadamard before the down projection; 0: one")
      .between(int64_t{0}, int64_t{1} << 20);
  command
      .add("--activation-clip", options->activation_clip,
           "part of their range that grids of activations cover")
      .between(0.1, 1.0);
  command.add("--cache-clip", options->cache_clip, "the same for keys and values")
      .between(0.1, 1.0);
  command.add("--spin-steps", options->spin_steps, "steps in which spinquant learns")
      .between(int64_t{1}, int64_t{100000});
  command.add("--spin-batch", options->spin_batch, "calibration windows of such a step")
      .between(int64_t{1}, int64_t{1} << 20);
  command.add("--spin-length", options->spin_length, "tokens of them that are used; 0: all")
      .between(int64_t{0}, int64_t{1} << 20);
  command.add("--memory", options->memory_gib, "GiB for calibration activations")
      .between(0.001, 65536.0);
  command.add("--out", options->out, "folder to write the quantized model to");
  command.add("--asymmetric", options->asymmetric, "weights with a zero point");
  command.add("--report", options->report, "measure on --data and print a table");
  command.add("--resume", options->resume, "go on behind the last finished block");
  command.runs([options] { return run(*options); });
}

}  // namespace osp
