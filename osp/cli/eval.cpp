// osp eval: perplexity or benchmarks of models at given widths of weights, activations and cache.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>

#include "osp/base/error.h"
#include "osp/cli/command.h"
#include "osp/cli/eval_tasks.h"
#include "osp/eval/perplexity.h"
#include "osp/eval/task.h"
#include "osp/eval/token_source.h"
#include "osp/model/model_dir.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/quantized_model_dir.h"

namespace osp {
namespace {

struct EvalArguments : MeasureOptions {
  std::string tasks = "perplexity";
  std::string bits = "16-16-16";
  // Of benchmarks alone.
  std::vector<std::string> models;
  std::string prompts = "reference", out, resume, table, samples;
  int64_t limit = 0;
};

struct Row {
  BitWidths bits;
  PerplexityResult result;
};

// Perplexity is measured of one model on its own.
void check_perplexity(const EvalArguments& options) {
  if (options.tasks != "perplexity") parse_tasks(options.tasks);  // names the unknown one
  if (options.models.size() > 1) {
    fail(ErrorCode::usage, "{} models: perplexity is measured of one; benchmarks (--tasks) of many",
         options.models.size());
  }
  if (!options.out.empty() || !options.resume.empty() || !options.table.empty() ||
      !options.samples.empty() || options.limit > 0) {
    fail(ErrorCode::usage,
         "--out, --resume, --table, --samples and --limit belong to benchmarks; name some with "
         "--tasks");
  }
}

PerplexityResult evaluate(const ParameterStore& store, const TokenSource& source,
                          const BitWidths& bits, Tap& tap, const EvalArguments& options,
                          Console& console) {
  const auto start = std::chrono::steady_clock::now();
  PerplexityOptions perplexity;
  perplexity.max_tokens = options.max_tokens;
  perplexity.tap = &tap;
  perplexity.progress = [&](int64_t done, int64_t total) {
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double left = seconds / static_cast<double>(done) * static_cast<double>(total - done);
    console.status(
        fmt::format("{}: {}/{} windows, {} left", bits.text(), done, total, format_duration(left)));
  };
  const PerplexityResult result = measure_perplexity(store, source.tokens, perplexity);
  console.end_status();
  return result;
}

Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json to_json(const EvalArguments& options, const std::vector<Row>& rows) {
  Json json;
  json["model"] = options.model;
  json["data"] = options.data;
  Json& results = json["results"] = Json::array();
  for (const Row& row : rows) {
    Json result;
    result["bits"] = row.bits.text();
    result["perplexity"] = number(row.result.perplexity);
    result["loss"] = number(row.result.loss);
    result["tokens"] = row.result.tokens;
    result["seconds"] = row.result.seconds;
    results.push_back(result);
  }
  return json;
}

void print_table(const std::vector<Row>& rows) {
  fmt::print("{:<10} {:>12} {:>10} {:>10} {:>9}\n", "bits", "perplexity", "loss", "tokens", "time");
  for (const Row& row : rows) {
    fmt::print("{:<10} {:>12.4f} {:>10.5f} {:>10} {:>9}\n", row.bits.text(), row.result.perplexity,
               row.result.loss, row.result.tokens, format_duration(row.result.seconds));
  }
}

std::vector<Row> evaluate_widths(const std::string& dir, const TokenSource& source,
                                 const EvalArguments& options, Console& console) {
  const std::vector<BitWidths> widths = parse_bits_list(options.bits);
  const ParameterStore store = load_model_dir(dir);
  std::vector<Row> rows;
  for (const BitWidths& bits : widths) {
    FakeQuantTap tap(store, bits);
    rows.push_back({bits, evaluate(store, source, bits, tap, options, console)});
  }
  return rows;
}

// A model dir that `osp quantize` wrote has its own widths.
std::vector<Row> evaluate_quantized(const std::string& dir, const TokenSource& source,
                                    const EvalArguments& options, Console& console) {
  const QuantizedModel model = load_quantized_model_dir(dir);
  const BitWidths& bits = model.info.bits;
  if (options.bits != EvalArguments().bits && options.bits != bits.text()) {
    fail(ErrorCode::usage, "--bits {}: {} is quantized to {} already; leave out --bits",
         options.bits, dir, bits.text());
  }
  const auto tap = model.make_tap();
  return {{bits, evaluate(model.store, source, bits, *tap, options, console)}};
}

int run_perplexity(EvalArguments options) {
  check_perplexity(options);
  options.model = options.models.front();
  parse_bits_list(options.bits);  // a mistake is told before anything is read
  Console console(options.common.quiet);
  const std::string dir = find_model_dir(options.model);
  const TokenSource source = read_token_source(options.data, dir, 0);
  if (!source.warning.empty()) console.warn("{}", source.warning);
  const std::vector<Row> rows = is_quantized_model_dir(dir)
                                    ? evaluate_quantized(dir, source, options, console)
                                    : evaluate_widths(dir, source, options, console);
  if (options.common.json) {
    print_json(to_json(options, rows));
  } else {
    print_table(rows);
  }
  return 0;
}

int run(const EvalArguments& options) {
  if (!names_benchmark(options.tasks)) return run_perplexity(options);
  return run_eval_tasks({.models = options.models,
                         .tasks = options.tasks,
                         .bits = options.bits,
                         .data = options.data,
                         .prompts = options.prompts,
                         .out = options.out,
                         .resume = options.resume,
                         .table = options.table,
                         .samples = options.samples,
                         .bits_given = options.bits != EvalArguments().bits,
                         .limit = options.limit,
                         .quiet = options.common.quiet,
                         .json = options.common.json});
}

}  // namespace

void add_eval(CommandLine& line) {
  auto options = std::make_shared<EvalArguments>();
  Command command =
      line.command("eval", "perplexity or benchmarks of models, also with fewer bits");
  add_common_options(command, options->common);
  command.add("model", options->models, "model dirs, checkpoints or finished runs").required();
  command
      .add("--data", options->data,
           "of perplexity: token shards or a text file; of benchmarks: the folder they are in")
      .required();
  command
      .add("--max-tokens", options->max_tokens,
           "of perplexity: the whole windows of the first N tokens; 0: all")
      .between(int64_t{0}, int64_t{1} << 40);
  command.add("--tasks", options->tasks,
              "perplexity, or benchmarks by commas; paper: all eleven of the paper");
  command.add("--prompts", options->prompts, "of benchmarks: reference or lm-eval")
      .one_of({"reference", "lm-eval"});
  command.add("--limit", options->limit, "items of each benchmark; 0: all")
      .between(int64_t{0}, int64_t{1} << 40);
  command.add("--out", options->out, "keep the results of benchmarks in this JSON file");
  command.add("--resume", options->resume, "go on with such a file after a stop");
  command.add("--table", options->table, "write one row per model to this .md or .csv file");
  command.add("--samples", options->samples,
              "write every item of benchmarks and its answer to this file, one JSON line each");
  command.add("--bits", options->bits,
              "weights-activations-cache, a list by commas; each 2 to 8, or 16 for none");
  command.runs([options] { return run(*options); });
}

}  // namespace osp
