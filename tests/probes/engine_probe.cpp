// Runs a quantized folder on the integer engine for tests/python/test_engine.py.
//
//   engine_probe FOLDER TOKENS OUT [threads [head bits [chunk]]]
//
// TOKENS: int32 ids. OUT: fp32 final states [tokens, width], then logits [tokens, vocabulary]. With
// the variable OSP_ENGINE_TRACE the codes of every quantizer go to the file that it names, as lines
// "point layer row codes".
#include <cstdlib>
#include <fstream>
#include <iostream>

#include "osp/base/error.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/runtime/engine.h"

namespace osp {
namespace {

std::vector<int32_t> read_tokens(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<int32_t> tokens;
  for (int32_t id; file.read(reinterpret_cast<char*>(&id), 4);) tokens.push_back(id);
  return tokens;
}

int run(int count, char** arguments) {
  const QuantizedFolder folder(arguments[1]);
  const std::vector<int32_t> tokens = read_tokens(arguments[2]);
  const auto number = [&](int i, int64_t standard) {
    return count > i ? std::atoll(arguments[i]) : standard;
  };
  const QuantizedModelInfo& info = folder.info();
  const ActivationGrids grids{.scales = info.scales,
                              .clips = info.clips,
                              .groups = info.groups,
                              .offsets = folder.read_offsets()};
  const QuantizedParts parts{
      folder.config(), info.bits,
      info.grid.group, info.online,
      grids,           [&](Part part, QuantizedWeights& w) { return folder.read(part, w); }};
  Engine engine(make_runtime_model(parts), {.threads = number(4, 1), .head_bits = number(5, 16)});
  std::ofstream traced;
  if (const char* path = std::getenv("OSP_ENGINE_TRACE")) {
    traced.open(path);
    engine.trace = [&](TapPoint point, int64_t layer, int64_t row, std::span<const int32_t> codes) {
      traced << static_cast<int>(point) << ' ' << layer << ' ' << row;
      for (const int32_t code : codes) traced << ' ' << code;
      traced << '\n';
    };
  }
  KvSequence sequence = engine.new_sequence();
  const auto chunk = static_cast<size_t>(number(6, static_cast<int64_t>(tokens.size())));
  std::vector<float> states;
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    const EngineRun part{&sequence,
                         std::span(tokens).subspan(begin, std::min(chunk, tokens.size() - begin))};
    const auto now = engine.read({&part, 1});
    states.insert(states.end(), now.begin(), now.end());
  }
  std::vector<float> logits(tokens.size() * static_cast<size_t>(engine.config().vocabulary));
  engine.logits(states, logits);
  std::ofstream out(arguments[3], std::ios::binary);
  const auto put = [&](const std::vector<float>& x) {
    out.write(reinterpret_cast<const char*>(x.data()), static_cast<std::streamsize>(x.size() * 4));
  };
  put(states);
  put(logits);
  std::cerr << engine.kernel_names() << '\n';
  return 0;
}

}  // namespace
}  // namespace osp

int main(int count, char** arguments) {
  try {
    return osp::run(count, arguments);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
