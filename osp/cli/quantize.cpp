// osp quantize: quantizes the linear layers of models by one method, or compares several in a table.
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
#include "osp/ptq/quantize_model.h"
#include "osp/ptq/quantize_table.h"
#include "osp/ptq/quantized_model_dir.h"

namespace osp {
namespace {

struct QuantizeCommand {
  CommonOptions common;
  std::vector<std::string> models;
  std::string method = "gptq";
  QuantizeRequest request;  // of the first seed; its method is set for each run
  bool report = false;
  std::string data;
  int64_t data_tokens = DivergenceOptions().max_tokens;
  int64_t seeds = 1;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_models(visit, self.models);
    visit.group("Method");
    visit("method", self.method, method_help());
    QuantizeRequest::fields(visit, self.request);
    visit.group("Measuring");
    visit("report", self.report, "measure perplexity and divergence on --data and print a table");
    visit("data", self.data,
          "token shards (their validation split) or a text file to measure the quantized model on",
          {.value = "PATH"});
    visit("data_tokens", self.data_tokens, Range{0, 1099511627776.0},
          "number of tokens at the start of --data to measure on, in whole windows; 0 = all",
          {.formerly = "max_tokens"});
    visit("seeds", self.seeds, Range{1, 1000},
          "number of seeds to run, beginning with --seed; the table shows mean and standard "
          "deviation");
    CommonOptions::fields(visit, self.common);
  }
};

// One model, opened and prepared for every method.
struct Subject {
  std::string name, dir;
  std::unique_ptr<ModelSource> source;
  TokenSource text;                     // of --data; empty without it
  std::optional<ParameterStore> whole;  // the original, where something is measured
  std::vector<at::Tensor> states;       // of the original, see DivergenceOptions
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
void read_measured(Subject& subject, const QuantizeCommand& options, Console& console) {
  if (!options.data.empty()) {
    subject.text = read_token_source(options.data, subject.dir, 0);
    if (!subject.text.warning.empty()) console.warn("{}", subject.text.warning);
    subject.whole = subject.source->read(kWhole);
  }
}

QuantizeRequest request_of(const QuantizeCommand& options, const std::string& method, uint64_t seed,
                           Console& console) {
  QuantizeRequest request = options.request;
  request.method = parse_method(method);
  request.seed = seed;
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

TableEntry measure(Subject& subject, const std::string& folder, const QuantizeCommand& options,
                   Console& console) {
  const QuantizedModel quantized = load_quantized_model_dir(folder);
  const auto tap = quantized.make_tap();
  DivergenceOptions divergence;
  divergence.max_tokens = options.data_tokens;
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

// All seeds of one method on one model. The first seed's model is written to --out; the others are
// measured and removed.
std::vector<TableEntry> run_method(Subject& subject, const std::string& method,
                                   const QuantizeCommand& options, Console& console, Json& json) {
  std::vector<TableEntry> entries;
  for (int64_t i = 0; i < options.seeds; ++i) {
    QuantizeRequest request =
        request_of(options, method, options.request.seed + static_cast<uint64_t>(i), console);
    const bool kept = i == 0 && !options.request.out.empty();
    std::optional<TemporaryFolder> temporary;
    if (!kept) temporary.emplace();
    if (!kept) request.out = *temporary / "model";
    if (!kept) request.resume = false;
    const QuantizeOutcome outcome = quantize_model(*subject.source, subject.dir, request);
    console.end_status();
    if (outcome.num_resumed > 0) {
      console.line("{} blocks had been quantized before", outcome.num_resumed);
    }
    if (kept) console.line("wrote {}", request.out);
    Json run = {{"model", subject.name}, {"seed", request.seed}, {"report", outcome.report}};
    if (subject.whole) {
      entries.push_back(measure(subject, request.out, options, console));
      run["measured"] = table_entry_json(entries.back());
    }
    json.push_back(run);
  }
  return entries;
}

void check_options(const QuantizeCommand& options) {
  const std::string& out = options.request.out;
  if (options.models.size() > 1 && !out.empty()) {
    fail(ErrorCode::usage, "--out {}: one model at a time can be written, {} were given", out,
         options.models.size());
  }
  if (options.method == "all" && !out.empty()) {
    fail(ErrorCode::usage, "--out {}: --method all measures methods; choose one to write", out);
  }
  if (options.report && options.data.empty()) {
    fail(ErrorCode::usage, "--report needs --data: the text on which perplexity is measured");
  }
  if (out.empty() && !options.report) {
    fail(ErrorCode::usage,
         "give --out to write the quantized model, --report to measure it, or both");
  }
  if (options.request.resume && out.empty()) {
    fail(ErrorCode::usage,
         "--resume continues an interrupted run in its --out folder; give the same --out");
  }
  if (!out.empty()) check_output_dir(out);
}

int run(const QuantizeCommand& options) {
  check_options(options);
  const std::vector<std::string> methods =
      options.method == "all" ? table_methods() : std::vector<std::string>{options.method};
  catch_signals();
  Console console(options.common.quiet);
  // Refuse before any work: for every method, then for every model.
  std::vector<QuantizeRequest> requests;
  for (const std::string& method : methods) {
    requests.push_back(request_of(options, method, options.request.seed, console));
    check_request(requests.back());
  }
  std::vector<Subject> subjects;
  for (const std::string& path : options.models) subjects.push_back(open_subject(path, requests));
  Table table;
  const std::string bits = options.request.bits.text();
  Json json = {
      {"bits", bits}, {"profile", profile_name(options.request.profile)}, {"runs", Json::array()}};
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
  table.bits = bits;
  print_result(
      options.common, [&] { return json; },
      [&] {
        if (!table.entries.empty()) fmt::print("{}", table_text(table));
      });
  return 0;
}

}  // namespace

void add_quantize(CommandLine& line) {
  line.command<QuantizeCommand>(
      "quantize", "quantize the weights, activations and key/value cache of models", run);
}

}  // namespace osp
