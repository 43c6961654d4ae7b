// Feeds arbitrary files to the reader of panels. A file that is accepted must run.
#include <cstdint>

#include "fuzz/accepted.h"
#include "fuzz/memory_file.h"
#include "fuzz/safetensors_mutator.h"
#include "osp/base/error.h"
#include "osp/runtime/engine.h"
#include "osp/runtime/panel_file.h"

namespace {

osp::ModelConfig tiny_config() {
  osp::ModelConfig config;
  config.layers = 1;
  config.width = 16;
  config.heads = 1;
  config.kv_heads = 1;
  config.head_size = 16;
  config.inner = 16;
  config.vocabulary = 20;
  config.context = 8;
  config.tied = true;
  config.embedding_projection = false;
  return osp::resolved_config(config);
}

}  // namespace

OSP_MUTATOR(osp::fuzz::mutated_safetensors)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const osp::ModelConfig config = tiny_config();
  static const osp::ActivationGrids grids;
  static const osp::OnlineTransforms online;
  const osp::QuantizedParts parts{config, {4, 4, 4}, 0, online, grids, {}};
  try {
    auto model = osp::map_panel_file(parts, osp::active_code_products(),
                                     osp::fuzz::memory_file("panels", data, size));
    osp::fuzz::accepted(data, size);
    osp::Engine engine(std::move(model), {.threads = 1, .head_bits = 8});
    osp::KvSequence sequence = engine.new_sequence();
    const int32_t tokens[] = {1, 2, 19};
    const osp::EngineRun run{&sequence, tokens};
    std::vector<float> logits(3 * 20);
    engine.logits(engine.read({&run, 1}), logits);
  } catch (const osp::Error&) {
  }
  return 0;
}
