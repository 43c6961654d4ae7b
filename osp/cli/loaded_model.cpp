#include "osp/cli/loaded_model.h"

#include <ATen/Parallel.h>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/model/model_dir.h"
#include "osp/runtime/integer_forward.h"
#include "osp/runtime/panel_file.h"

namespace osp {
namespace {

void check_quantized(const std::string& dir) {
  if (is_quantized_model_dir(dir)) return;
  fail(ErrorCode::usage, "{}: is not quantized; quantize it first (osp quantize)", dir);
}

bool is_panel_dir(const std::string& dir) { return path_exists(dir + "/" + kPanelFile); }

// Parts of a folder that the engine takes from config.json and, one by one, from the weights.
struct FolderParts {
  FolderParts(const QuantizedModelInfo& info, const ModelConfig& config)
      : grids{.scales = info.scales, .clips = info.clips, .groups = info.groups},
        parts{.config = config,
              .bits = info.bits,
              .weight_group = info.grid.group,
              .online = info.online,
              .grids = grids,
              .read = {}} {}
  ActivationGrids grids;
  QuantizedParts parts;
};

std::unique_ptr<const RuntimeModel> runtime_model_of(const QuantizedFolder& folder) {
  FolderParts from(folder.info(), folder.config());
  from.grids.offsets = folder.read_offsets();
  from.parts.read = [&folder](Part part, QuantizedWeights& weights) {
    ParameterStore store = folder.read(part, weights);
    folder.release();
    return store;
  };
  return make_runtime_model(from.parts);
}

std::unique_ptr<const RuntimeModel> mapped_model_of(const std::string& dir,
                                                    const QuantizedConfig& config) {
  const FolderParts from(config.info, config.model);
  return map_panel_file(from.parts, active_code_products(), dir + "/" + kPanelFile);
}

std::unique_ptr<const RuntimeModel> runtime_model_in(const std::string& dir,
                                                     const QuantizedConfig& config) {
  return is_panel_dir(dir) ? mapped_model_of(dir, config)
                           : runtime_model_of(QuantizedFolder(dir, config));
}

// Puts the model of a quantized model dir on the integer engine; returns why it cannot be, "" if it
// is.
std::string load_on_engine(const std::string& dir, const QuantizedConfig& config,
                           const EngineChoice& choice, LoadedModel& loaded) {
  const std::string reason = why_not_in_integers(FolderParts(config.info, config.model).parts);
  if (!reason.empty()) return reason;
  const int64_t threads = at::get_num_threads(), head_bits = std::stoll(choice.head);
  auto engine = std::make_unique<Engine>(runtime_model_in(dir, config),
                                         EngineOptions{.threads = threads, .head_bits = head_bits});
  loaded.engine_note =
      fmt::format("integer engine ({}), {} thread{}, {}-bit head", engine->kernel_names(), threads,
                  threads == 1 ? "" : "s", head_bits);
  loaded.model.info = config.info;
  loaded.model.store = store_without_parameters(config.model);
  loaded.tap = std::make_unique<IntegerForward>(std::move(engine));
  loaded.integer = true;
  return "";
}

// Why texts that the model can read would not fit the integer engine; "" if all do.
std::string why_auto_simulates(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.type != "longrope" || scaling.original_context >= config.context) return "";
  return fmt::format(
      "its rotary embedding (longrope) has other factors beyond {} tokens; --engine integer runs "
      "texts of up to as many",
      scaling.original_context);
}

}  // namespace

std::unique_ptr<Engine> load_engine(const std::string& dir, const EngineOptions& options) {
  check_quantized(dir);
  return std::make_unique<Engine>(runtime_model_in(dir, load_quantized_config(dir)), options);
}

std::unique_ptr<const RuntimeModel> load_runtime_model(const std::string& dir) {
  check_quantized(dir);
  return runtime_model_of(QuantizedFolder(dir));
}

void refuse_bits(const std::string& asked, const std::string& dir, const BitWidths& own) {
  fail(ErrorCode::usage,
       "--bits {}: {} is quantized to {} already; leave out --bits, or give the model that it was "
       "made from",
       asked, dir, own.text());
}

void note_text_part(const std::string& model, Console& console) {
  if (!holds_more_than_text(model)) return;
  console.warn(
      "{}: osp reads the text model alone; the image encoder is left out of what is written",
      model);
}

void note_rounded_before(const std::string& model, const std::string& before, Console& console) {
  if (before.empty()) return;
  console.warn(
      "{}: its weights were rounded before ({}); do not compare its numbers with those of a model "
      "that was rounded once",
      model, before);
}

void add_rounded_before(Json& results, const std::string& before) {
  if (!before.empty()) results["rounded_before"] = before;
}

void use_precision(const std::string& precision, LoadedModel& loaded) {
  if (precision == "fp32") return;
  if (loaded.integer) {
    fail(ErrorCode::usage, "--precision {}: {}; give --engine simulated as well", precision,
         loaded.engine_note);
  }
  set_compute_type(loaded.model.store, true);
}

void check_bits(const CommonOptions& common, const std::string& bits) {
  if (common.is_given("bits")) parse_bits(bits);
}

void check_engine_options(const CommonOptions& common, const EngineChoice& choice, bool quantized) {
  if (!quantized && choice.engine == "integer") return;  // load_model_at says what to do
  if (!quantized) refuse_given(common, {"engine", "head"}, "is for quantized model dirs");
  if (choice.engine == "simulated") {
    refuse_given(common, {"head"}, "is for the integer engine, not for --engine simulated");
  }
}

void check_head_applies(const CommonOptions& common, const LoadedModel& loaded) {
  if (!loaded.integer) {
    refuse_given(common, {"head"},
                 "is for the integer engine, and this model is " + loaded.engine_note);
  }
}

std::unique_ptr<LoadedModel> load_model_at(const std::string& dir, const std::string& bits,
                                           const EngineChoice& choice) {
  auto loaded = std::make_unique<LoadedModel>();
  if (!bits.empty()) loaded->bits = parse_bits(bits);
  if (is_quantized_model_dir(dir)) {
    const QuantizedConfig config = load_quantized_config(dir);
    const BitWidths& own = config.info.bits;
    if (!bits.empty() && loaded->bits != own) refuse_bits(bits, dir, own);
    loaded->bits = own;
    std::string simulated_because = choice.engine == "simulated" ? "--engine simulated" : "";
    if (choice.engine == "auto" && !is_panel_dir(dir)) {
      simulated_because = why_auto_simulates(config.model);
    }
    if (simulated_because.empty()) {
      simulated_because = load_on_engine(dir, config, choice, *loaded);
    }
    if (simulated_because.empty()) return loaded;
    if (choice.engine == "integer") {
      fail(ErrorCode::unsupported, "--engine integer: {}: {}; leave out --engine to simulate it",
           dir, simulated_because);
    }
    loaded->engine_note = fmt::format("simulated in floating point ({})", simulated_because);
    loaded->model = load_quantized_model(QuantizedFolder(dir, config));
    loaded->tap = loaded->model.make_tap();
    return loaded;
  }
  if (choice.engine == "integer") {
    fail(ErrorCode::usage,
         "--engine integer: {} is not quantized; quantize it first (osp quantize)", dir);
  }
  loaded->model.store = load_model_dir(dir);
  if (loaded->bits != BitWidths{}) {
    loaded->tap = std::make_unique<FakeQuantTap>(loaded->model.store, loaded->bits);
  }
  return loaded;
}

}  // namespace osp
