#include "osp/cli/loaded_model.h"

#include <ATen/Parallel.h>

#include "osp/base/error.h"
#include "osp/model/model_dir.h"
#include "osp/runtime/integer_forward.h"

namespace osp {
namespace {

// What the engine takes from an opened folder.
struct FolderParts {
  explicit FolderParts(const QuantizedFolder& folder)
      : grids{.scales = folder.info().scales,
              .clips = folder.info().clips,
              .groups = folder.info().groups},
        parts{.config = folder.config(),
              .bits = folder.info().bits,
              .weight_group = folder.info().grid.group,
              .online = folder.info().online,
              .grids = grids,
              .read = [&folder](Part part, QuantizedWeights& weights) {
                ParameterStore store = folder.read(part, weights);
                folder.release();
                return store;
              }} {}
  ActivationGrids grids;
  QuantizedParts parts;
};

std::unique_ptr<Engine> engine_of_folder(const QuantizedFolder& folder,
                                         const EngineOptions& options) {
  FolderParts from(folder);
  from.grids.offsets = folder.read_offsets();
  return std::make_unique<Engine>(make_runtime_model(from.parts), options);
}

// Puts the model of an opened folder on the integer engine; returns why it cannot be, "" if it is.
std::string load_on_engine(const QuantizedFolder& folder, const EngineChoice& choice,
                           LoadedModel& loaded) {
  const std::string reason = why_not_in_integers(FolderParts(folder).parts);
  if (!reason.empty()) return reason;
  const int64_t threads = at::get_num_threads(), head_bits = std::stoll(choice.head);
  auto engine = engine_of_folder(folder, {.threads = threads, .head_bits = head_bits});
  loaded.engine_note =
      fmt::format("integer engine ({}), {} thread{}, {}-bit head", engine->kernel_names(), threads,
                  threads == 1 ? "" : "s", head_bits);
  loaded.model.info = folder.info();
  loaded.model.store = store_without_parameters(folder.config());
  loaded.tap = std::make_unique<IntegerForward>(std::move(engine));
  return "";
}

}  // namespace

std::unique_ptr<Engine> load_engine(const std::string& dir, const EngineOptions& options) {
  if (!is_quantized_model_dir(dir)) {
    fail(ErrorCode::usage, "{}: is not quantized; quantize it first (osp quantize)", dir);
  }
  return engine_of_folder(QuantizedFolder(dir), options);
}

void refuse_bits(const std::string& asked, const std::string& dir, const BitWidths& own) {
  fail(ErrorCode::usage, "--bits {}: {} is quantized to {} already; leave out --bits", asked, dir,
       own.text());
}

std::unique_ptr<LoadedModel> load_model_at(const std::string& dir, const std::string& bits,
                                           const EngineChoice& choice) {
  auto loaded = std::make_unique<LoadedModel>();
  loaded->bits = parse_bits(bits);
  if (is_quantized_model_dir(dir)) {
    const QuantizedFolder folder(dir);
    const BitWidths& own = folder.info().bits;
    if (loaded->bits != BitWidths{} && loaded->bits != own) refuse_bits(bits, dir, own);
    loaded->bits = own;
    const std::string simulated_because = choice.engine == "simulated"
                                              ? "--engine simulated"
                                              : load_on_engine(folder, choice, *loaded);
    if (simulated_because.empty()) return loaded;
    if (choice.engine == "integer") {
      fail(ErrorCode::unsupported, "--engine integer: {}: {}; leave out --engine to simulate it",
           dir, simulated_because);
    }
    loaded->engine_note = fmt::format("simulated in floating point ({})", simulated_because);
    loaded->model = load_quantized_model(folder);
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
