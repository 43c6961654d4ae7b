// osp quantize: quantizes the linear layers of models by one method, or compares several in a
// table.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/base/output.h"
#include "osp/base/temporary_folder.h"
#include "osp/cli/command.h"
#include "osp/cli/held_memory.h"
#include "osp/cli/loaded_model.h"
#include "osp/cli/quantize_runs.h"
#include "osp/eval/divergence.h"
#include "osp/eval/token_source.h"
#include "osp/model/model_dir.h"
#include "osp/ops/result_origin.h"
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
          "token shards (their validation split), or a file of text, JSON lines or Parquet, to "
          "measure the quantized model on; s3://BUCKET/KEY and gs://BUCKET/KEY name those of an "
          "object store",
          {.value = "PATH"});
    visit("data_tokens", self.data_tokens, Range{0, 1099511627776.0},
          "number of tokens at the start of --data to measure on, in whole windows; 0 = all",
          {.needs = "data", .formerly = "max_tokens"});
    visit("seeds", self.seeds, Range{1, 1000},
          "number of seeds to run, beginning with --seed; the table shows mean and standard "
          "deviation",
          {.needs = "data"});
    CommonOptions::fields(visit, self.common);
  }
};

// One model, opened and prepared for every method.
struct Subject {
  std::string name, dir;
  std::string before;                           // how its weights had been rounded before
  std::map<std::string, std::string> refusals;  // of --method all: the method, and why
  std::unique_ptr<ModelSource> source;
  TokenSource text;                     // of --data; empty without it
  std::optional<ParameterStore> whole;  // the original, where something is measured
  std::vector<at::Tensor> states;       // of the original, see DivergenceOptions
};

bool wants_all(const QuantizeCommand& options) { return options.method == "all"; }

// An error about one method, which leaves the others of --method all untouched.
bool is_refusal(const Error& error) {
  return error.code() == ErrorCode::unsupported || error.code() == ErrorCode::usage ||
         error.code() == ErrorCode::diverged;
}

// Opens a model and refuses it if the method cannot serve it; of --method all, if none can. Reads
// no tensor.
Subject open_subject(const std::string& path, const std::vector<QuantizeRequest>& requests) {
  Subject subject;
  subject.name = path;
  subject.dir = find_model_dir(path);
  if (is_quantized_model_dir(subject.dir)) {
    fail(ErrorCode::usage, "{}: is quantized already; give the model that it was made from",
         subject.dir);
  }
  subject.source = fused_source(open_model(subject.dir));
  subject.before = subject.source->rounded_before();
  for (const QuantizeRequest& request : requests) {
    try {
      check_method_serves(request, subject.source->config());
    } catch (const Error& error) {
      if (!is_refusal(error) || subject.refusals.size() + 1 == requests.size()) throw;
      subject.refusals[request.method.name] = error.what();
    }
  }
  return subject;
}

// Refuses what cannot be held, of all methods that serve the model the largest.
void check_quantization_memory(const Subject& subject, const std::vector<QuantizeRequest>& requests,
                               const QuantizeCommand& options, Console& console) {
  const bool measured = !options.data.empty();
  double bytes = 0;
  for (const QuantizeRequest& request : requests) {
    if (subject.refusals.contains(request.method.name)) continue;
    bytes = std::max(bytes, quantization_bytes(subject.source->config(), request, measured));
  }
  check_held_memory(
      bytes, "quantizing " + subject.name,
      measured ? "leave out --data and measure the folder with osp eval, " : "lower --memory, ",
      console);
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

// Everything that is computed, with what it is written to.
struct Work {
  const QuantizeCommand& options;  // --out resolved
  Console& console;
  QuantizeRuns& runs;
  Table& table;
};

// The folder that keeps the first seed's model; "" without --out.
std::string kept_folder(const QuantizeCommand& options, const std::string& method) {
  const std::string& out = options.request.out;
  return out.empty() || !wants_all(options) ? out : out + "/" + method;
}

void add_refusal(Work& work, const Subject& subject, const std::string& method, uint64_t seed,
                 const std::string& reason) {
  work.table.entries.push_back({.model = subject.name, .method = method, .refused = reason});
  work.runs.add({{"model", subject.name}, {"method", method}, {"seed", seed}, {"refused", reason}});
  work.console.line("{} is refused: {}", method, reason);
}

// Takes over a run of an earlier call.
void take_run(Work& work, const Subject& subject, const Json& run) {
  if (run.contains("refused")) {
    work.table.entries.push_back({.model = subject.name,
                                  .method = json_string(run, "method", "results.json"),
                                  .refused = json_string(run, "refused", "results.json")});
  } else if (run.contains("measured")) {
    work.table.entries.push_back(parse_table_entry(run["measured"], "results.json"));
    work.table.entries.back().model = subject.name;
  }
}

// True if the profile chooses the groups of activations: 4 bits or fewer, a scale for each token.
bool groups_by_profile(const QuantizeCommand& options) {
  const QuantizeRequest& request = options.request;
  const NumberFormat& format = request.bits.activations;
  return request.profile == Profile::best && request.activations == ActivationMode::per_token &&
         format.kind == NumberKind::integer && format.bits <= 4 &&
         !options.common.is_given("activation_group") && !options.common.is_given("down_group");
}

// One seed of one method on one model. The first seed's model is written to --out; the others are
// measured and removed.
void run_seed(Work& work, Subject& subject, const std::string& method, int64_t index) {
  const QuantizeCommand& options = work.options;
  QuantizeRequest request = request_of(
      options, method, options.request.seed + static_cast<uint64_t>(index), work.console);
  if (groups_by_profile(options)) {
    request.groups = best_activation_groups(subject.source->config());
  }
  request.out = index == 0 ? kept_folder(options, method) : "";
  const bool kept = !request.out.empty();
  // Of several methods the interrupted one alone has parts to go on from.
  if (wants_all(options) && !path_exists(request.out + ".work")) request.resume = false;
  std::optional<TemporaryFolder> temporary;
  if (!kept) {
    temporary.emplace();
    request.out = *temporary / "model";
    request.resume = false;
  }
  const QuantizeOutcome outcome = quantize_model(*subject.source, subject.dir, request);
  work.console.end_status();
  if (outcome.num_resumed > 0) {
    work.console.line("{} blocks had been quantized before", outcome.num_resumed);
  }
  if (kept) work.console.line("wrote {}", request.out);
  Json run = {{"model", subject.name},
              {"method", request.method.name},
              {"seed", request.seed},
              {"report", outcome.report}};
  add_rounded_before(run, subject.before);
  if (subject.whole) {
    work.table.entries.push_back(measure(subject, request.out, options, work.console));
    run["measured"] = table_entry_json(work.table.entries.back());
  }
  work.runs.add(std::move(run));
}

// All seeds of one method on one model.
void run_method(Work& work, Subject& subject, const std::string& method) {
  const std::string name = parse_method(method).name;
  for (int64_t i = 0; i < work.options.seeds; ++i) {
    const uint64_t seed = work.options.request.seed + static_cast<uint64_t>(i);
    if (const Json* run = work.runs.find(subject.name, name, seed)) {
      take_run(work, subject, *run);
      continue;
    }
    const auto refused = subject.refusals.find(name);
    if (refused != subject.refusals.end()) {
      return add_refusal(work, subject, name, seed, refused->second);
    }
    try {
      run_seed(work, subject, method, i);
    } catch (const Error& error) {
      if (!wants_all(work.options) || !is_refusal(error)) throw;
      work.console.end_status();
      return add_refusal(work, subject, name, seed, error.what());
    }
  }
}

void check_options(const QuantizeCommand& options) {
  const std::string& out = options.request.out;
  if (options.models.size() > 1 && !out.empty()) {
    fail(ErrorCode::usage, "--out {}: one model at a time can be written, {} were given", out,
         options.models.size());
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
}

// Refuses settings of what keeps 16 bits, and of a part that the method does not have. (Of --method
// all some method has it.)
void check_method_options(const QuantizeCommand& options) {
  const BitWidths& bits = options.request.bits;
  if (!bits.quantizes_activations()) {
    refuse_given(options.common, {"activation_clip", "activation_scales"},
                 "is for rounded activations, which keep 16 bits at --bits " + bits.text());
  }
  if (!bits.weights.is_float()) {
    refuse_given(
        options.common, {"weight_scales"},
        "is for weights in mxfp4, nvfp4 or fp8; the scales of integers are searched anyway");
  }
  if (!bits.quantizes_kv_cache()) {
    refuse_given(options.common, {"cache_clip"},
                 "is for a rounded cache, which keeps 16 bits at --bits " + bits.text());
  }
  if (wants_all(options)) return;
  const QuantizeMethod method = parse_method(options.method);
  for (const TransformRow* const row : transforms()) {
    if (row == method.transform) continue;
    const auto end = std::ranges::find(row->own_options, "");
    refuse_given(
        options.common, {row->own_options.begin(), end},
        fmt::format("is for {}, not for --method {}", row->own_options_are_for, options.method));
  }
  if (method.transform == nullptr || !method.transform->leaves_down_hadamard) {
    refuse_given(
        options.common, {"hadamard_block"},
        "is for methods with a Hadamard in front of the down projection, not for --method " +
            options.method);
  }
  if (options.request.calibration.empty()) {
    refuse_given(options.common, {"windows", "length", "calibration_type", "memory"},
                 "is about the calibration text, and --calibration is not given");
  }
}

// The call that a document is kept and resumed by: everything that its numbers depend on.
Json call_json(const QuantizeCommand& options, const QuantizeRequest& request) {
  Json call = request_json(request);
  call["method"] = options.method;
  call["models"] = options.models;
  call["data"] = options.data;
  call["data_tokens"] = options.data_tokens;
  call["seeds"] = options.seeds;
  if (groups_by_profile(options)) call["groups_by_profile"] = true;
  return call;
}

void print_runs(const QuantizeCommand& options, const QuantizeRuns& runs, const Table& table) {
  print_result(
      options.common, [&] { return runs.json(); },
      [&] {
        if (!table.entries.empty()) print_out("{}", table_text(table));
      });
}

// Prints what was done before a call ended early, and says how it goes on.
[[noreturn]] void end_early(const Work& work, const Error& error) {
  work.console.end_status();
  if (!work.runs.json()["runs"].empty()) print_runs(work.options, work.runs, work.table);
  const std::string text = error.what();
  if (error.code() != ErrorCode::interrupted || text.find("--resume") != std::string::npos) {
    throw error;
  }
  fail(ErrorCode::interrupted, "{}; {}", text,
       work.options.request.out.empty() ? "without --out nothing is kept"
                                        : "the same command with --resume goes on there");
}

int run(const QuantizeCommand& given) {
  check_options(given);
  check_method_options(given);
  const std::vector<std::string> methods =
      wants_all(given) ? table_methods() : std::vector<std::string>{given.method};
  catch_signals();
  Console console(given.common.quiet);
  // Refuse before any work: a name that cannot be written, then every method, then every model.
  QuantizeCommand options = given;
  std::optional<ReservedOutput> place;
  if (!given.request.out.empty()) {
    const bool resume = given.request.resume;
    if (resume && wants_all(given) && !path_exists(resolved_output(given.request.out))) {
      fail(ErrorCode::usage,
           "{}: there is nothing to resume; check --out, or leave out --resume to begin",
           given.request.out);
    }
    place.emplace(given.request.out, resume ? OutputKind::folder : OutputKind::new_folder);
    options.request.out = place->path();
  }
  std::vector<QuantizeRequest> requests;
  for (const std::string& method : methods) {
    requests.push_back(request_of(options, method, options.request.seed, console));
    check_request(requests.back());
  }
  std::vector<Subject> subjects;
  for (const std::string& path : options.models) {
    subjects.push_back(open_subject(path, requests));
    check_quantization_memory(subjects.back(), requests, options, console);
  }
  // Run every method on every model.
  Table table;
  table.bits = options.request.bits.text();
  Json header = {{"bits", table.bits}, {"profile", profile_name(options.request.profile)}};
  if (wants_all(options)) header["call"] = call_json(options, requests.front());
  if (!options.data.empty()) header["data"] = options.data;
  record_origin(header);
  const bool keeps = wants_all(options) && place;
  QuantizeRuns runs(header, keeps ? place->path() + "/results.json" : "", options.request.resume);
  if (keeps) make_directories(place->path());
  Work work{options, console, runs, table};
  try {
    for (Subject& subject : subjects) {
      note_rounded_before(subject.name, subject.before, console);
      if (place) note_text_part(subject.dir, console);
      read_measured(subject, options, console);
      for (const std::string& method : methods) run_method(work, subject, method);
      subject = {};  // one whole model in memory at a time
    }
  } catch (const Error& error) {
    end_early(work, error);
  }
  print_runs(options, runs, table);
  return 0;
}

}  // namespace

void add_quantize(CommandLine& line) {
  line.command<QuantizeCommand>(
      "quantize", "quantize the weights, activations and key/value cache of models", run);
}

}  // namespace osp
