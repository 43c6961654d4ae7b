#include "osp/export/compressed_export.h"

#include "osp/base/error.h"
#include "osp/model/hf_config.h"
#include "osp/model/model_dir.h"

namespace osp {
namespace {

// What is said of the weights alone.
QuantizedModelInfo weights_alone(const QuantizedModelInfo& info) {
  return {.bits = {info.bits.weights, 16, 16},
          .grid = info.grid,
          .online = {.query_key_hadamard = false},
          .method = info.method,
          .profile = info.profile};
}

}  // namespace

CodedExport export_compressed(const std::string& model, const std::string& path,
                              const std::string& dtype) {
  const std::string dir = find_model_dir(model);
  const PlainType plain = plain_type(dtype, "bf16");
  const std::unique_ptr<CodedModel> source = open_coded_model(dir);
  check_coded_model(*source, "the compressed-tensors layout", dir);
  const QuantizedModelInfo info = weights_alone(source->info());
  if (const std::string reason = why_osp_alone(info, source->config()); !reason.empty()) {
    refuse_export(dir, "other programs would not compute the same: " + reason);
  }
  // Tensors by the names of the layout.
  CodedExport report;
  TensorBuffers buffers;
  source->each([&](const CodedTensor& tensor) {
    const std::string& name = tensor.stored.name;
    if (tensor.layer == nullptr) {
      return add_plain(buffers, tensor, plain, dir, report);
    }
    if (tensor.column_group.defined()) {
      refuse_export(dir, name +
                             " has its columns in another order than its groups (act-order), which "
                             "compressed-tensors no longer reads; --format gptq can say it");
    }
    add_quantized(buffers, name, *tensor.layer, true);
    ++report.num_layers;
  });
  Json quantization = compressed_tensors_config(info, source->config());
  for (const std::string& layer : report.plain_layers) quantization["ignore"].push_back(layer);
  write_coded_folder(dir, path, buffers, *source, quantization, plain);
  return report;
}

}  // namespace osp
