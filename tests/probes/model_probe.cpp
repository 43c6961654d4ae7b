// Runs a model dir on given tokens for tests/python/test_model_parity.py.
//
//   model_probe MODEL INPUT.safetensors OUTPUT.safetensors [--bf16] [--rows N] [--cache N]
//               [--forward]
// A quantized model dir runs with its quantizers and gives nothing but logits.
//
// INPUT: tokens I64 [B,T], targets I64 [B,T], optionally documents I32 [B,T]. OUTPUT: logits
// [B,T,V], loss_sum [1], and "gradient." + name for every parameter, of the sum of the loss.
// --rows: batch rows per micro-batch; --cache: tokens per call of a forward pass with a key-value
// cache, whose logits are written as cached_logits. --forward: nothing but logits.
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "osp/base/error.h"
#include "osp/formats/safetensors.h"
#include "osp/model/model_dir.h"
#include "osp/model/transformer.h"
#include "osp/ops/tensor_library.h"
#include "osp/ptq/quantized_model_dir.h"

namespace {

at::Tensor read_tensor(const osp::SafetensorsFile& file, const std::string& name,
                       at::ScalarType type) {
  const osp::TensorView& view = file.at(name);
  at::Tensor tensor = at::empty(view.shape, at::TensorOptions().dtype(type));
  OSP_CHECK(tensor.nbytes() == view.data.size(), "{} has another type", name);
  std::memcpy(tensor.mutable_data_ptr(), view.data.data(), view.data.size());
  return tensor;
}

// Logits of a pass in pieces of `step` tokens through a cache.
at::Tensor cached_logits(const osp::ParameterStore& store, const at::Tensor& tokens_BT,
                         int64_t step, osp::Tap* tap) {
  osp::KvCache cache = osp::make_kv_cache(store, tokens_BT.size(0), tokens_BT.size(1));
  osp::ForwardOptions options;
  options.cache = &cache;
  options.tap = tap;
  std::vector<at::Tensor> parts;
  for (int64_t t = 0; t < tokens_BT.size(1); t += step) {
    const int64_t count = std::min(step, tokens_BT.size(1) - t);
    parts.push_back(osp::forward_logits(store, tokens_BT.narrow(1, t, count), options));
  }
  return at::cat(parts, 1);
}

// The loss and its gradients, by micro-batches of --rows rows.
void add_gradients(osp::ParameterStore& store, const at::Tensor& tokens_BT,
                   const at::Tensor& targets_BT, const at::Tensor& documents_BT,
                   std::map<std::string, int64_t>& options,
                   std::map<std::string, at::Tensor>& results) {
  osp::zero_gradients(store);
  const int64_t B = tokens_BT.size(0);
  const int64_t rows = options.contains("--rows") ? options["--rows"] : B;
  at::Tensor loss;
  for (int64_t row = 0; row < B; row += rows) {
    const int64_t count = std::min(rows, B - row);
    osp::ForwardOptions training;
    training.training = true;
    if (documents_BT.defined()) training.documents_BT = documents_BT.narrow(0, row, count);
    at::Tensor sum = osp::forward_loss_sum(store, tokens_BT.narrow(0, row, count),
                                           targets_BT.narrow(0, row, count), training);
    sum.backward();
    loss = loss.defined() ? loss.add(sum.detach()) : sum.detach();
  }
  results["loss_sum"] = loss.view({1});
  for (size_t i = 0; i < store.specs.size(); ++i) {
    results["gradient." + store.specs[i].name] = store.gradient(static_cast<int64_t>(i));
  }
}

void run(const std::vector<std::string>& paths, std::map<std::string, int64_t> options) {
  const osp::SafetensorsFile input = osp::SafetensorsFile::open(paths[1]);
  const at::Tensor tokens_BT = read_tensor(input, "tokens", at::kLong);
  const at::Tensor targets_BT = read_tensor(input, "targets", at::kLong);
  at::Tensor documents_BT;
  if (input.tensors().contains("documents")) {
    documents_BT = read_tensor(input, "documents", at::kInt);
  }
  const bool quantized = osp::is_quantized_model_dir(paths[0]);
  const bool trains = !quantized && !options.contains("--forward");
  osp::StoreOptions store_options;
  store_options.bf16 = options.contains("--bf16");
  store_options.gradients = trains;
  osp::QuantizedModel model;
  if (quantized) {
    model = osp::load_quantized_model_dir(paths[0]);
  } else {
    model.store = osp::load_model_dir(paths[0], store_options);
  }
  osp::ParameterStore& store = model.store;
  const auto tap = quantized ? model.make_tap() : nullptr;

  std::map<std::string, at::Tensor> results;
  osp::ForwardOptions whole;
  whole.documents_BT = documents_BT;
  whole.tap = tap.get();
  results["logits"] = osp::forward_logits(store, tokens_BT, whole);
  if (options.contains("--cache")) {
    results["cached_logits"] = cached_logits(store, tokens_BT, options["--cache"], tap.get());
  }
  if (trains) {
    add_gradients(store, tokens_BT, targets_BT, documents_BT, options, results);
  }

  std::vector<osp::TensorEntry> entries;
  for (auto& [name, tensor] : results) {
    tensor = tensor.to(at::kFloat).contiguous();
    entries.push_back({name,
                       "F32",
                       tensor.sizes().vec(),
                       {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}});
  }
  osp::write_safetensors(paths[2], entries);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    osp::prepare_tensor_library();
    std::vector<std::string> paths;
    std::map<std::string, int64_t> options;
    for (int i = 1; i < argc; ++i) {
      const std::string word = argv[i];
      if (word == "--bf16" || word == "--forward") {
        options[word] = 1;
      } else if (word.starts_with("--")) {
        OSP_CHECK(i + 1 < argc, "{} needs a number", word);
        options[word] = std::stoll(argv[++i]);
      } else {
        paths.push_back(word);
      }
    }
    OSP_CHECK(paths.size() == 3, "model_probe MODEL INPUT OUTPUT [options]");
    run(paths, options);
    return 0;
  } catch (const osp::Error& error) {
    fmt::print(stderr, "model_probe: {}\n", error.what());
    return osp::exit_status(error.code());
  } catch (const std::exception& error) {
    fmt::print(stderr, "model_probe: {}\n", error.what());
    return 1;
  }
}
