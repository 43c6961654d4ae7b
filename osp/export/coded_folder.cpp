#include "osp/export/coded_folder.h"

#include <ATen/TensorOperators.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json_text.h"
#include "osp/export/lost_rows.h"
#include "osp/model/model_dir.h"

namespace osp {

PlainType plain_type(const std::string& dtype, const std::string& automatic) {
  const std::string& name = dtype == "auto" ? automatic : dtype;
  if (name == "f16") return {"F16", "float16", at::kHalf};
  if (name == "bf16") return {"BF16", "bfloat16", at::kBFloat16};
  if (name == "fp32") return {"F32", "float32", at::kFloat};
  fail(ErrorCode::usage, "--dtype {}: what is not quantized is written in f16, bf16 or fp32",
       dtype);
}

void refuse_export(const std::string& where, const std::string& reason) {
  fail(ErrorCode::unsupported, "{}: {}", where, reason);
}

void check_coded_model(const CodedModel& model, const std::string& layout,
                       const std::string& where) {
  if (model.info().online.down_hadamard) {
    refuse_export(
        where,
        "the model needs a Hadamard transform before each down projection while it runs, which " +
            layout + " cannot ask for; quantize by a method without it, such as gptq, to export");
  }
  if (model.config().has_experts()) {
    refuse_export(where,
                  "it has experts, for which osp does not write this layout; the quantized folder "
                  "itself holds them");
  }
}

void add_plain(TensorBuffers& buffers, const CodedTensor& tensor, const PlainType& type,
               const std::string& where, CodedExport& report) {
  const std::string& name = tensor.stored.name;
  const at::Tensor &values = tensor.numbers, rounded = values.to(type.type);
  if (!rounded.isfinite().all().item<bool>()) {
    refuse_export(
        where, fmt::format("{} holds numbers beyond {}; choose --dtype bf16", name, type.config));
  }
  if (type.type == at::kHalf) {
    std::string lost = lost_rows_text(name, values, kLargestLostInHalf);
    if (!lost.empty()) report.lost_rows.push_back(std::move(lost));
  }
  if (is_block_layer(tensor)) report.plain_layers.push_back(layer_name(name));
  if (tensor.decoded) report.decoded.push_back(name);
  buffers.add(name, type.file, rounded);
}

at::Tensor half_scale(const QuantizedLinear& layer, const std::string& name,
                      const std::string& where, CodedExport& report) {
  at::Tensor half = layer.scale.to(at::kHalf);
  const at::Tensor back = half.to(at::kFloat);
  if (!back.isfinite().logical_and(back.gt(0.0)).all().item<bool>()) {
    refuse_export(where, name +
                             " has a scale that fp16 cannot hold, and the layout has no other; "
                             "the quantized folder itself holds it");
  }
  report.scale_rounding = std::max(
      report.scale_rounding, back.sub(layer.scale).abs().div(layer.scale).max().item<double>());
  return half;
}

void write_coded_folder(const std::string& dir, const std::string& path,
                        const TensorBuffers& buffers, const CodedModel& model,
                        const Json& quantization, const PlainType& plain, bool beside_config) {
  write_folder_atomic(path, [&](const std::string& temporary) {
    write_safetensors(temporary + "/model.safetensors", buffers.entries, {{"format", "pt"}});
    copy_model_files(dir, temporary, path);
    if (beside_config) {
      write_file_atomic(temporary + "/quantize_config.json", json_text(quantization, 2) + "\n");
    }
    Json json = model.config_json();
    json["quantization_config"] = quantization;
    json["dtype"] = plain.config;
    json["torch_dtype"] = plain.config;
    const std::string& before = model.info().rounded_before;
    if (!before.empty()) json[kRoundedBeforeKey] = before;
    write_file_atomic(temporary + "/config.json", json_text(json, 2) + "\n");
  });
}

std::string layer_name(const std::string& weight) { return weight.substr(0, weight.rfind('.')); }

}  // namespace osp
