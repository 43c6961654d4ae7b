#include "osp/cli/loaded_model.h"

#include <ATen/Parallel.h>

#include "osp/base/error.h"
#include "osp/model/model_dir.h"
#include "osp/runtime/integer_forward.h"

namespace osp {
namespace {

// Puts the model of an opened folder on the integer engine; returns why it cannot be, "" if it is.
std::string load_on_engine(const QuantizedFolder& folder, const EngineChoice& choice,
                           LoadedModel& loaded) {
  const QuantizedModelInfo& info = folder.info();
  ActivationGrids grids{.scales = info.scales, .clips = info.clips, .groups = info.groups};
  QuantizedParts parts{
      .config = folder.config(),
      .bits = info.bits,
      .weight_group = info.grid.group,
      .online = info.online,
      .grids = grids,
      .read = [&](Part part, QuantizedWeights& weights) { return folder.read(part, weights); }};
  const std::string reason = why_not_in_integers(parts);
  if (!reason.empty()) return reason;
  grids.offsets = folder.read_offsets();
  const int64_t threads = at::get_num_threads(), head_bits = std::stoll(choice.head);
  auto engine = std::make_unique<Engine>(make_runtime_model(parts),
                                         EngineOptions{.threads = threads, .head_bits = head_bits});
  loaded.engine_note =
      fmt::format("integer engine ({}), {} thread{}, {}-bit head", engine->kernel_names(), threads,
                  threads == 1 ? "" : "s", head_bits);
  QuantizedWeights none;
  loaded.model.store = folder.read(kOutsideBlocks, none);
  loaded.tap = std::make_unique<IntegerForward>(std::move(engine));
  return "";
}

}  // namespace

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
    loaded->model.info = folder.info();
    const BitWidths& own = folder.info().bits;
    if (loaded->bits != BitWidths{} && loaded->bits != own) refuse_bits(bits, dir, own);
    loaded->bits = own;
    loaded->simulated_because = choice.engine == "simulated"
                                    ? "--engine simulated"
                                    : load_on_engine(folder, choice, *loaded);
    if (loaded->simulated_because.empty()) return loaded;
    if (choice.engine == "integer") {
      fail(ErrorCode::unsupported, "--engine integer: {}: {}; leave out --engine to simulate it",
           dir, loaded->simulated_because);
    }
    loaded->engine_note =
        fmt::format("simulated in floating point ({})", loaded->simulated_because);
    loaded->model = load_quantized_model_dir(dir);
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
