// osp export: writes a model in the format of other programs.
#include <ATen/ops/tensor.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/base/output.h"
#include "osp/base/philox.h"
#include "osp/base/quantity.h"
#include "osp/base/sha256.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/export/awq_export.h"
#include "osp/export/compressed_export.h"
#include "osp/export/gguf_convert.h"
#include "osp/export/gptq_export.h"
#include "osp/model/fuse.h"
#include "osp/model/model_dir.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/runtime/panel_file.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {
namespace {

struct ExportCommand {
  CommonOptions common;
  std::string model;
  std::string format;
  std::string out;
  std::string dtype = "auto";
  std::string tables = "auto";
  std::string split_size;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_model(visit, self.model);
    visit.group("Output");
    visit("format", self.format,
          Choices{{"hf", "gguf", "gptq", "awq", "compressed-tensors", "panels"}},
          "format to write; hf = a folder for transformers, gguf = a file for llama.cpp, gptq, awq "
          "and compressed-tensors = the codes of a quantized model, of osp or of another program, "
          "for GPTQModel, vLLM and transformers, panels = a folder from which osp generate, serve, "
          "score and eval start at once",
          {.required = true});
    visit("out", self.out, "folder or file (gguf) to create", {.value = "PATH", .required = true});
    visit("dtype", self.dtype,
          Choices{{"auto", "fp32", "bf16", "f16", "q8_0", "q6_k", "q5_0", "q5_1", "q4_0", "q4_1",
                   "q4_k", "mxfp4"}},
          "type of what is not quantized (fp32, bf16; of gptq, awq and compressed-tensors also "
          "f16); gguf: type of the linear layers; auto = fp32 for hf, f16 for gptq, awq and gguf, "
          "bf16 for compressed-tensors, and for gguf of a quantized model the type that holds its "
          "codes exactly");
    visit("tables", self.tables,
          Choices{{"auto", "fp32", "bf16", "f16", "q8_0", "q6_k", "q5_0", "q5_1", "q4_0", "q4_1",
                   "q4_k"}},
          "gguf: type of embedding and head; auto = that of --dtype, and for a quantized model the "
          "type that holds its integer tables exactly, else f16");
    visit(
        "split_size", self.split_size,
        "gguf: bytes of tensors per file, as 2GB or 512MiB; a larger model becomes "
        "NAME-00001-of-00003.gguf and so on, which every command reads by the name of any of them",
        {.value = "SIZE"});
    CommonOptions::fields(visit, self.common);
  }
};

// Tokens on which the fused model is compared with the original.
constexpr int64_t kComparedTokens = 64;
// fp32 rounding of the fused tables and of two orders of summation stays below 1e-5 of the largest
// logit for the published sizes; a hundred times that is a defect.
constexpr double kLargestDifference = 1e-3;

at::Tensor some_tokens(const ModelConfig& config) {
  const RandomStream random(0, "export");
  std::vector<int64_t> ids(static_cast<size_t>(std::min(kComparedTokens, config.context)));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int64_t>(random.below(i, static_cast<uint64_t>(config.vocabulary)));
  }
  return at::tensor(ids).unsqueeze(0);
}

// The model with weights that need nothing while it runs. A quantized one gives its dequantized
// weights, without the online transforms that they were made for.
ParameterStore load_plain(const std::string& dir, Console& console) {
  if (!is_quantized_model_dir(dir)) return load_model_dir(dir);
  const QuantizedModel model = load_quantized_model_dir(dir);
  const bool weights_alone = model.info.bits == BitWidths{model.info.bits.weights, 16, 16};
  console.line("{} has the weights of {} dequantized{}", dir, model.info.method,
               weights_alone ? "" : "; activations and cache run in 16 bits there");
  return model.plain_store();
}

// How the weights were rounded before what the export is made from, which is also said.
std::string note_source(const ExportCommand& options, Console& console) {
  std::string before = rounded_before(find_model_dir(options.model));
  if (!before.empty()) console.line("{}: weights rounded before: {}", options.model, before);
  note_text_part(options.model, console);
  return before;
}

// Refuses a fused model with norms that no family of transformers can say.
void check_family(const ModelConfig& config, const std::string& dir) {
  if (architecture_name(config) != "OspForCausalLM") return;
  fail(ErrorCode::unsupported,
       "{}: the model has {}, which no architecture that transformers knows has in this "
       "combination; osp reads the folder as it is",
       dir, config.qk_norm ? "QK-norm" : "options of several families");
}

// Bytes per file that were asked for; 0: one file.
uint64_t split_bytes(const std::string& size) {
  return size.empty() ? 0 : static_cast<uint64_t>(parse_quantity(size, "B", "--split-size"));
}

int run_gguf(const ExportCommand& options, const std::string& out) {
  Console console(options.common.quiet);
  note_source(options, console);
  // Convert; everything is written when this returns.
  const GgufConversion result = convert_to_gguf(options.model, out, options.dtype, options.tables,
                                                split_bytes(options.split_size));
  // Warn of what the file lacks or holds in another type.
  if (!result.has_tokenizer) {
    console.warn("{} has no tokenizer: exported without it", options.model);
  }
  if (!result.report.plain_layers.empty()) {
    console.warn("{} linear layers have no codes in {} and are written in f16, the first is {}",
                 result.report.plain_layers.size(), options.model, result.report.plain_layers[0]);
  }
  if (!result.report.kept_f16.empty()) {
    console.warn("{} tensors whose rows are no multiple of 32 were kept in f16, the first is {}",
                 result.report.kept_f16.size(), result.report.kept_f16[0]);
  }
  if (!result.report.substituted.empty()) {
    console.warn(
        "{} tensors whose rows are no multiple of 256 were written in another type, the first is "
        "{}",
        result.report.substituted.size(), result.report.substituted[0]);
  }
  if (!result.report.rounded_again.empty()) {
    console.warn(
        "{} tensors were rounded once more, because the type does not hold their codes; the first: "
        "{}",
        result.report.rounded_again.size(), result.report.rounded_again[0]);
  }
  for (const std::string& lost : result.report.lost_rows) console.warn("{}", lost);
  for (const std::string& other : result.report.differences) console.warn("{}", other);
  for (const std::string& cut : result.report.tokenizer_warnings) console.warn("{}", cut);
  if (result.report.end_tokens_lost > 0) {
    console.warn(
        "the format has keys for 3 tokens that end a text: {} more of the model's are not written",
        result.report.end_tokens_lost);
  }
  // Report, for people and as JSON.
  const std::vector<std::string>& files = result.report.files;
  console.line("wrote {} ({}{}, tables {}, {} parameters)", files.front(),
               files.size() > 1 ? fmt::format("first of {} files, ", files.size()) : "",
               result.dtype, result.tables, format_count(result.parameters));
  if (options.common.json) {
    Json json;
    json["model"] = options.model;
    json["out"] = out;
    json["format"] = options.format;
    json["dtype"] = result.dtype;
    json["tables"] = result.tables;
    json["files"] = files;
    json["parameters"] = result.parameters;
    json["kept_f16"] = result.report.kept_f16;
    json["plain_layers"] = result.report.plain_layers;
    json["substituted"] = result.report.substituted;
    json["layers_of_codes"] = result.report.layers_of_codes;
    json["rounded_again"] = result.report.rounded_again;
    json["scale_rounding"] = result.report.scale_rounding;
    json["lost_rows"] = result.report.lost_rows;
    json["differences"] = result.report.differences;
    json["tokenizer_warnings"] = result.report.tokenizer_warnings;
    print_json(json);
  }
  return 0;
}

int run_hf(const ExportCommand& options, const std::string& out) {
  const std::string dtype = options.dtype == "auto" ? "fp32" : options.dtype;
  if (dtype != "fp32" && dtype != "bf16") {
    fail(ErrorCode::usage, "--dtype {}: --format hf is written in fp32 or bf16", dtype);
  }
  Console console(options.common.quiet);
  // Read the model; refuse what no family of transformers can say.
  const std::string dir = find_model_dir(options.model);
  const std::string before = note_source(options, console);
  const ParameterStore store = load_plain(dir, console);
  // Whoever reads the folder cannot see from plain numbers that they were rounded.
  const std::string rounded =
      is_quantized_model_dir(dir) ? quantization_text(load_quantized_config(dir).info) : before;
  const bool has_norms = store.config.norm != "none";
  if (has_norms) check_family(fused_config(store.config), dir);
  // Fuse, and compare the logits with the original ones.
  const ParameterStore fused = fuse(store);
  const LogitDifference difference = compare_logits(store, fused, some_tokens(store.config));
  if (!(difference.relative <= kLargestDifference)) {
    fail(
        ErrorCode::damaged,
        "{}: logits differ by {} of the largest after fusing, expected at most {}: the weights are "
        "not finite or badly scaled",
        dir, difference.relative, kLargestDifference);
  }
  console.line("fused logits equal the original ones within {:.2e} (largest logit {:.3g})",
               difference.largest, difference.scale);
  // Write the folder: weights, configuration and tokenizer.
  if (!has_norms) {
    console.warn(
        "a model without norms in its blocks has no counterpart elsewhere: written as {}, "
        "which osp alone reads",
        architecture_name(fused.config));
  }
  const bool has_tokenizer = Tokenizer::exists(dir);
  write_folder_atomic(out, [&](const std::string& temporary) {
    copy_model_files(dir, temporary, out);
    save_model_dir(fused, temporary, has_tokenizer ? Tokenizer::from_file(dir).json() : "",
                   {.bf16 = dtype == "bf16",
                    .end_tokens = load_end_tokens(dir),
                    .outer_tokens = load_outer_tokens(dir),
                    .rounded_before = rounded});
  });
  if (!has_tokenizer) console.warn("{} has no tokenizer: exported without it", dir);
  console.line("wrote {} ({}, {} parameters, {})", out, architecture_name(fused.config),
               format_count(fused.num_parameters()), dtype);
  // Report as JSON.
  if (options.common.json) {
    Json json;
    json["model"] = options.model;
    json["out"] = out;
    json["format"] = options.format;
    json["dtype"] = dtype;
    json["architecture"] = architecture_name(fused.config);
    json["parameters"] = fused.num_parameters();
    add_rounded_before(json, rounded);
    json["logit_difference"] = {{"largest", difference.largest}, {"relative", difference.relative}};
    print_json(json);
  }
  return 0;
}

// The formats that carry codes.
using CodedExporter = CodedExport (*)(const std::string& model, const std::string& path,
                                      const std::string& dtype);

int run_codes(const ExportCommand& options, const std::string& out, CodedExporter exporter) {
  Console console(options.common.quiet);
  const std::string before = note_source(options, console);
  const CodedExport result = exporter(options.model, out, options.dtype);
  for (const std::string& lost : result.lost_rows) console.warn("{}", lost);
  if (!result.plain_layers.empty()) {
    console.warn(
        "{} linear layers have no codes in {} and are written as numbers, named in the folder's "
        "configuration; the first: {}",
        result.plain_layers.size(), options.model, result.plain_layers.front());
  }
  if (!result.decoded.empty()) {
    console.line("written as the numbers that their codes stand for: {}",
                 fmt::join(result.decoded, ", "));
  }
  if (result.scale_rounding > 0) {
    console.line(
        "scales were rounded to fp16, by at most {:.2e} of their size; --profile best "
        "chooses the codes for scales that fp16 holds",
        result.scale_rounding);
  }
  console.line("wrote {} ({} layers; activations and cache run in 16 bits there)", out,
               result.num_layers);
  if (options.common.json) {
    Json json = {{"model", options.model},
                 {"out", out},
                 {"format", options.format},
                 {"layers", result.num_layers},
                 {"plain_layers", result.plain_layers},
                 {"scale_rounding", result.scale_rounding}};
    add_rounded_before(json, before);
    print_json(json);
  }
  return 0;
}

int run_panels(const ExportCommand& options, const std::string& out) {
  if (options.dtype != "auto") {
    fail(ErrorCode::usage, "--dtype {}: panels have the codes of the model and tables in f16",
         options.dtype);
  }
  Console console(options.common.quiet);
  const std::string dir = find_model_dir(options.model);
  const std::unique_ptr<const RuntimeModel> model = load_runtime_model(dir);
  const std::string source = sha256_file(dir + "/model.safetensors");
  write_folder_atomic(out, [&](const std::string& temporary) {
    copy_model_files(dir, temporary, out);
    for (const char* name : {"quantize.json", "config.json"}) {
      const std::string file = dir + "/" + name;
      if (path_exists(file)) write_file_atomic(temporary + "/" + name, read_file(file));
    }
    write_panel_file(*model, active_engine_kernels(), source, temporary + "/" + kPanelFile);
  });
  const auto bytes = static_cast<int64_t>(std::filesystem::file_size(out + "/" + kPanelFile));
  console.line("wrote {} ({}, layout {}, numerics {})", out,
               format_bytes(static_cast<double>(bytes)), kPanelLayout, kEngineNumerics);
  if (options.common.json) {
    print_json({{"model", options.model},
                {"out", out},
                {"format", options.format},
                {"bytes", bytes},
                {"layout", kPanelLayout},
                {"numerics", kEngineNumerics}});
  }
  return 0;
}

int run(const ExportCommand& options) {
  catch_signals();
  const StoppableFiles stoppable;
  const bool is_file = options.format == "gguf";
  const ReservedOutput place(options.out, is_file ? OutputKind::new_file : OutputKind::new_folder);
  const std::string& out = place.path();
  if (!is_file) {
    refuse_given(options.common, {"tables", "split_size"},
                 "is for --format gguf, and --format " + options.format + " has one type for all");
  }
  if (is_file) return run_gguf(options, out);
  if (options.format == "gptq") return run_codes(options, out, export_gptq);
  if (options.format == "awq") return run_codes(options, out, export_awq);
  if (options.format == "compressed-tensors") return run_codes(options, out, export_compressed);
  if (options.format == "panels") return run_panels(options, out);
  return run_hf(options, out);
}

}  // namespace

void add_export(CommandLine& line) {
  line.command<ExportCommand>("export", "write a model in the format of another program", run);
}

}  // namespace osp
