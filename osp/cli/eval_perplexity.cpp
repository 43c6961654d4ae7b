// The part of `osp eval` that measures perplexity, and divergence from another model.

#include <algorithm>
#include <chrono>
#include <optional>

#include "osp/base/error.h"
#include "osp/base/json_number.h"
#include "osp/base/timing.h"
#include "osp/cli/eval_command.h"
#include "osp/cli/held_memory.h"
#include "osp/cli/loaded_model.h"
#include "osp/diagnose/cost_report.h"
#include "osp/eval/divergence.h"
#include "osp/eval/perplexity.h"
#include "osp/eval/token_source.h"
#include "osp/model/model_dir.h"
#include "osp/ops/result_origin.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/quant/fake_quant.h"

namespace osp {
namespace {

struct Row {
  BitWidths bits;
  PerplexityResult result;
  std::optional<DivergenceResult> divergence;
  double bits_per_byte = 0.0;  // 0 without a tokenizer
  std::optional<OutlierTax> tax;
};

// Everything that all rows share.
struct Measure {
  const EvalCommand& options;
  const TokenSource& source;
  const ParameterStore* original;  // that divergence is measured from; nullptr: none
  Console& console;
  std::vector<at::Tensor>& original_states;  // see DivergenceOptions
};

double bits_per_byte(const PerplexityResult& result, const TokenSource& source) {
  if (!source.tokenizer) return 0.0;
  const bool overlapping = result.stride < result.window;
  const int64_t length = (result.windows - 1) * result.stride + result.window;
  const int64_t bytes =
      overlapping ? scored_bytes(*source.tokenizer, source.tokens, length, 1)
                  : scored_bytes(*source.tokenizer, source.tokens, result.window, result.windows);
  return result.loss * static_cast<double>(result.tokens) / std::log(2.0) /
         static_cast<double>(bytes);
}

// Divergence, and with it the perplexity: one pass of the model, beside one of the original for all
// rows.
PerplexityResult measure_both(const Measure& measure, const ParameterStore& store, Tap& tap,
                              const std::string& bits, DivergenceResult& divergence) {
  const auto start = std::chrono::steady_clock::now();
  DivergenceOptions options;
  options.max_tokens = measure.options.perplexity.max_tokens;
  options.changed_tap = &tap;
  options.original_states = &measure.original_states;
  options.progress = progress_line(measure.console, bits, "windows");
  divergence = measure_divergence(*measure.original, store, measure.source.tokens, options);
  return {.loss = divergence.changed_loss,
          .perplexity = divergence.changed_perplexity(),
          .tokens = divergence.tokens,
          .window = divergence.window,
          .stride = divergence.window,
          .windows = divergence.windows,
          .seconds = seconds_since(start)};
}

Row measure_row(const Measure& measure, const ParameterStore& store, const BitWidths& bits,
                Tap& tap) {
  Row row{bits, {}, {}, 0.0, {}};
  if (measure.original != nullptr) {
    row.result = measure_both(measure, store, tap, bits.text(), row.divergence.emplace());
  } else {
    PerplexityOptions perplexity = measure.options.perplexity;
    perplexity.tap = &tap;
    perplexity.progress = progress_line(measure.console, bits.text(), "windows");
    row.result = measure_perplexity(store, measure.source.tokens, perplexity);
  }
  row.bits_per_byte = bits_per_byte(row.result, measure.source);
  measure.console.end_status();
  return row;
}

void check_original(const ParameterStore& original, const ParameterStore& store,
                    const EvalCommand& options) {
  if (original.config.vocabulary == store.config.vocabulary &&
      original.config.context == store.config.context) {
    return;
  }
  fail(ErrorCode::usage,
       "--divergence-from {}: vocabulary {} and context {}, but {} has {} and {}; give the "
       "model that it was made from",
       options.divergence_from, original.config.vocabulary, original.config.context,
       options.models.front(), store.config.vocabulary, store.config.context);
}

// A model dir that `osp quantize` wrote has its own widths.
std::vector<Row> measure_quantized(const std::string& dir, const Measure& measure) {
  const std::string& asked = measure.options.bits;
  if (asked.find(',') != std::string::npos) {
    refuse_bits(asked, dir, load_quantized_config(dir).info.bits);
  }
  const auto loaded = load_model_at(dir, asked, measure.options.engine);
  check_head_applies(measure.options.common, *loaded);
  use_precision(measure.options.precision, *loaded);
  const ParameterStore& store = loaded->model.store;
  measure.console.line("{}", loaded->engine_note);
  if (measure.options.groups.any()) {
    fail(ErrorCode::usage,
         "--activation-group and --down-group: {} is quantized already and has its own groups; "
         "leave them out",
         dir);
  }
  if (measure.original != nullptr) check_original(*measure.original, store, measure.options);
  return {measure_row(measure, store, loaded->bits, *loaded->tap)};
}

// The outlier tax of a model dir at each of the rows' widths that round anything.
void measure_taxes(const std::string& dir, const Measure& measure, std::vector<Row>& rows) {
  for (Row& row : rows) {
    if (row.bits == BitWidths{}) continue;
    TurnedModel model(load_model_dir(dir));
    row.tax = measure_outlier_tax(
        model, measure.source.tokens,
        {.bits = row.bits,
         .rotations = measure.options.rotations,
         .max_tokens = measure.options.perplexity.max_tokens,
         .progress = progress_line(measure.console, row.bits.text() + " tax", "measurements")});
    measure.console.end_status();
  }
}

std::vector<Row> measure_widths(const std::string& dir, const Measure& measure) {
  ParameterStore store = load_model_dir(dir);
  set_compute_type(store, measure.options.precision == "bf16");
  check_activation_groups(measure.options.groups, store.config);
  for (const BitWidths& bits : measure.options.widths()) check_float_blocks(bits, store.config);
  if (measure.original != nullptr) check_original(*measure.original, store, measure.options);
  std::vector<Row> rows;
  for (const BitWidths& bits : measure.options.widths()) {
    FakeQuantTap tap(store, bits, {}, {.groups = measure.options.groups});
    rows.push_back(measure_row(measure, store, bits, tap));
  }
  return rows;
}

Json rows_json(const EvalCommand& options, const TokenSource& source, const std::vector<Row>& rows,
               const std::string& before) {
  Json json;
  record_origin(json);
  json["model"] = options.models.front();
  add_rounded_before(json, before);
  json["data"] = options.data;
  json["precision"] = options.precision;
  if (options.tasks == "wikitext2") {
    json["task"] = options.tasks;
    json["text_tokens"] = source.tokens.size();
  }
  if (options.groups.any()) {
    json["activation_group"] = options.groups.inputs;
    json["down_group"] = options.groups.down;
  }
  Json& results = json["results"] = Json::array();
  for (const Row& row : rows) {
    Json result;
    result["bits"] = row.bits.text();
    result["perplexity"] = finite_or_null(row.result.perplexity);
    result["loss"] = finite_or_null(row.result.loss);
    if (row.bits_per_byte > 0) result["bits_per_byte"] = finite_or_null(row.bits_per_byte);
    result["tokens"] = row.result.tokens;
    result["window"] = row.result.window;
    result["stride"] = row.result.stride;
    result["seconds"] = row.result.seconds;
    if (row.divergence) {
      result["divergence"] = {{"from", options.divergence_from},
                              {"mean", finite_or_null(row.divergence->divergence)},
                              {"median", finite_or_null(row.divergence->divergence_median)},
                              {"p95", finite_or_null(row.divergence->divergence_95)},
                              {"p99", finite_or_null(row.divergence->divergence_99)},
                              {"same_choice", row.divergence->same_choice}};
    }
    if (row.tax) result["outlier_tax"] = tax_json(*row.tax);
    results.push_back(result);
  }
  return json;
}

void print_rows(const std::vector<Row>& rows) {
  const bool divergence = !rows.empty() && rows.front().divergence.has_value();
  size_t width = 10;
  for (const Row& row : rows) width = std::max(width, row.bits.text().size());
  print_out("{:<{}} {:>12} {:>10} {:>10} {:>10} {:>9}{}\n", "bits", width, "perplexity", "loss",
            "bits/byte", "tokens", "time",
            divergence ? fmt::format(" {:>9} {:>9} {:>9} {:>9} {:>12}", "mean KL", "median", "95 %",
                                     "99 %", "same choice")
                       : "");
  for (const Row& row : rows) {
    print_out("{:<{}} {:>12.4f} {:>10.5f} {:>10} {:>10} {:>9}", row.bits.text(), width,
              row.result.perplexity, row.result.loss,
              row.bits_per_byte > 0 ? fmt::format("{:.4f}", row.bits_per_byte) : "-",
              row.result.tokens, format_duration(row.result.seconds));
    if (row.divergence) {
      const DivergenceResult& d = *row.divergence;
      print_out(" {:>9.5f} {:>9.5f} {:>9.5f} {:>9.5f} {:>10.2f} %", d.divergence,
                d.divergence_median, d.divergence_95, d.divergence_99, 100 * d.same_choice);
    }
    print_out("\n");
  }
  for (const Row& row : rows) {
    if (row.tax) print_out("{}: {}\n", row.bits.text(), tax_text(*row.tax));
  }
}

// Refuses what cannot be held, before the text is read.
void check_evaluation_memory(const EvalCommand& options, const std::string& dir, Console& console) {
  double bytes = evaluation_bytes({.dir = dir,
                                   .widths = options.widths(),
                                   .bf16 = options.precision == "bf16",
                                   .simulated = options.engine.engine == "simulated"});
  std::string work = "evaluating " + options.models.front();
  std::string advice;
  if (!options.divergence_from.empty()) {
    const std::string from = find_model_dir(options.divergence_from);
    if (is_quantized_model_dir(from)) return;  // refused
    bytes += plain_model_bytes(from);
    work += " beside " + options.divergence_from;
    advice = "leave out --divergence-from, ";
  }
  check_held_memory(bytes, work, advice, console);
}

}  // namespace

int run_eval_perplexity(const EvalCommand& options) {
  if (options.perplexity.stride > 0 && !options.divergence_from.empty()) {
    fail(ErrorCode::usage,
         "--stride with --divergence-from: divergence is measured in windows without overlap; give "
         "one of the two");
  }
  Console console(options.common.quiet);
  const std::string dir = find_model_dir(options.models.front());
  check_engine_options(options.common, options.engine, is_quantized_model_dir(dir));
  if (options.tax && is_quantized_model_dir(dir)) {
    fail(ErrorCode::usage, "--tax: {} is quantized; give the model that it was made from", dir);
  }
  const std::vector<BitWidths> widths = options.widths();
  if (options.tax &&
      std::ranges::all_of(widths, [](const BitWidths& bits) { return bits == BitWidths{}; })) {
    fail(ErrorCode::usage, "--tax: nothing is rounded at 16-16-16; give fewer --bits");
  }
  check_evaluation_memory(options, dir, console);
  const bool wikitext2 = options.tasks == "wikitext2";
  const TokenSource source =
      wikitext2 ? read_wikitext2(options.data, dir) : read_token_source(options.data, dir, 0);
  if (!source.warning.empty()) console.warn("{}", source.warning);
  std::optional<ParameterStore> original;
  if (!options.divergence_from.empty()) {
    const std::string from = find_model_dir(options.divergence_from);
    if (is_quantized_model_dir(from)) {
      fail(ErrorCode::usage, "--divergence-from {}: is quantized; give the model it was made from",
           options.divergence_from);
    }
    original.emplace(load_model_dir(from));
  }
  std::vector<at::Tensor> states;
  const std::string before = rounded_before(dir);
  note_rounded_before(options.models.front(), before, console);
  const Measure measure{options, source, original ? &*original : nullptr, console, states};
  std::vector<Row> rows =
      is_quantized_model_dir(dir) ? measure_quantized(dir, measure) : measure_widths(dir, measure);
  if (options.tax) measure_taxes(dir, measure, rows);
  print_result(
      options.common, [&] { return rows_json(options, source, rows, before); },
      [&] { print_rows(rows); });
  return 0;
}

}  // namespace osp
