#include "osp/export/awq_export.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "osp/base/error.h"
#include "osp/model/model_dir.h"
#include "osp/model/packed_layout.h"

namespace osp {
namespace {

// Codes [rows, out] from −8 to 7 as words [rows, out / 8].
at::Tensor awq_words(const at::Tensor& codes) {
  const at::Tensor c = codes.contiguous();
  const int64_t rows = c.size(0), words = c.size(1) / 8;
  at::Tensor result = at::zeros({rows, words}, at::kInt);
  int32_t* const out = result.mutable_data_ptr<int32_t>();
  const int8_t* const in = c.const_data_ptr<int8_t>();
  for (int64_t i = 0; i < rows * words; ++i) {
    uint32_t word = 0;
    for (size_t place = 0; place < kAwqOutputs.size(); ++place) {
      word |= static_cast<uint32_t>(in[i * 8 + kAwqOutputs[place]] + 8) << (4 * place);
    }
    out[i] = static_cast<int32_t>(word);
  }
  return result;
}

void check_awq(const CodedModel& model, const std::string& where) {
  check_coded_model(model, "the AWQ layout", where);
  if (model.config().family == "GPTNeoXForCausalLM") {
    refuse_export(where,
                  "transformers divides the activations of GPT-NeoX by scales of its own in AWQ "
                  "folders, which this model does not have; --format gptq and compressed-tensors "
                  "have no such scales");
  }
  const QuantizedModelInfo& info = model.info();
  if (info.grid.is_integer() && info.grid.bits <= 4) return;
  refuse_export(where,
                fmt::format("the AWQ layout holds integers of 4 bits, these weights are {}{}",
                            info.bits.weights.text(),
                            info.grid.is_integer() ? " bits; --format gptq and "
                                                     "compressed-tensors hold more"
                                                   : " numbers"));
}

void add_awq_layer(TensorBuffers& buffers, const CodedTensor& tensor, const std::string& where,
                   CodedExport& report) {
  const std::string& name = tensor.stored.name;
  const QuantizedLinear& layer = *tensor.layer;
  if (tensor.column_group.defined()) {
    refuse_export(where, name +
                             " has its columns in another order than its groups (act-order), which "
                             "the AWQ layout cannot say; --format gptq can");
  }
  if (layer.rows() % 8 != 0) {
    refuse_export(where, fmt::format("{} has {} outputs: the AWQ layout packs eight in a word",
                                     name, layer.rows()));
  }
  const std::string prefix = layer_name(name);
  const at::Tensor zero = layer.symmetric() ? at::zeros_like(layer.scale, at::kChar) : layer.zero;
  buffers.add(prefix + ".qweight", "I32", awq_words(layer.codes.t()));
  buffers.add(prefix + ".qzeros", "I32", awq_words(zero.t()));
  buffers.add(prefix + ".scales", "F16", half_scale(layer, name, where, report).t());
  ++report.num_layers;
}

Json awq_config(const QuantizedModelInfo& info) {
  Json json;
  json["quant_method"] = "awq";
  json["version"] = "gemm";
  json["bits"] = 4;
  json["group_size"] = info.grid.group == 0 ? -1 : info.grid.group;
  json["zero_point"] = true;  // the layout has them in any case
  json["modules_to_not_convert"] = nullptr;
  return json;
}

}  // namespace

CodedExport export_awq(const std::string& model, const std::string& path,
                       const std::string& dtype) {
  const std::string dir = find_model_dir(model);
  const PlainType plain = plain_type(dtype, "f16");
  const std::unique_ptr<CodedModel> source = open_coded_model(dir);
  check_awq(*source, dir);
  CodedExport report;
  TensorBuffers buffers;
  source->each([&](const CodedTensor& tensor) {
    if (tensor.layer != nullptr) return add_awq_layer(buffers, tensor, dir, report);
    add_plain(buffers, tensor, plain, dir, report);
  });
  Json config = awq_config(source->info());
  if (!report.plain_layers.empty()) {
    config["modules_to_not_convert"] = report.plain_layers;
    config["modules_to_not_convert"].push_back(
        layer_name(stored_name(source->config(), parameter_name(ParameterRole::head))));
  }
  write_coded_folder(dir, path, buffers, *source, config, plain);
  return report;
}

}  // namespace osp
