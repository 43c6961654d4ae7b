#include "osp/export/gptq_export.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json_text.h"
#include "osp/export/lost_rows.h"
#include "osp/model/hf_family.h"
#include "osp/model/model_dir.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/ptq/quantized_model_tensors.h"

namespace osp {
namespace {

[[noreturn]] void refuse(const std::string& where, const std::string& reason) {
  fail(ErrorCode::unsupported, "{}: {}", where, reason);
}

void check_model(const QuantizedModelInfo& info, const std::string& where) {
  if (info.online.down_hadamard) {
    refuse(
        where,
        "the model needs a Hadamard transform before each down projection while it runs, which "
        "the GPTQ layout cannot ask for; quantize by a method without it, such as gptq, to export");
  }
  if (!info.grid.is_integer()) {
    refuse(where, fmt::format("the GPTQ layout holds integers, these weights are {} numbers; the "
                              "quantized folder itself is what other programs load",
                              info.bits.weights.text()));
  }
  const int64_t bits = info.grid.bits;
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    refuse(where,
           fmt::format("the GPTQ layout holds 2, 3, 4 or 8 bits, these weights have {}", bits));
  }
}

void add_layer(TensorBuffers& buffers, const std::string& name, const QuantizedLinear& layer,
               const std::string& where, GptqExport& report) {
  const int64_t bits = layer.bits, out = layer.rows(), in = layer.columns();
  if (in * bits % 32 != 0 || out * bits % 32 != 0) {
    refuse(where, fmt::format("{} is [{}, {}]: the GPTQ layout packs {}-bit codes into whole words "
                              "of 32 bits along both",
                              name, out, in, bits));
  }
  const at::Tensor half = layer.scale.to(at::kHalf), back = half.to(at::kFloat);
  if (!back.isfinite().logical_and(back.gt(0.0)).all().item<bool>()) {
    refuse(where, name +
                      " has a scale that fp16 cannot hold, and the layout has no other; the "
                      "quantized folder itself holds it");
  }
  report.scale_rounding = std::max(
      report.scale_rounding, back.sub(layer.scale).abs().div(layer.scale).max().item<double>());
  const int64_t lowest = -(int64_t{1} << (bits - 1));
  at::Tensor zeros = at::full({layer.groups(), out}, -1, at::kChar);
  if (!layer.symmetric()) {
    if (layer.zero.eq(lowest).any().item<bool>()) {
      refuse(where, fmt::format("{} has a zero point of {} (all weights of a group have one sign), "
                                "which version 1 of the GPTQ layout cannot hold; quantize with "
                                "symmetric weights",
                                name, lowest));
    }
    zeros = layer.zero.t().sub(1);
  }
  const std::string prefix = name.substr(0, name.rfind('.'));
  const int64_t group = layer.group == 0 ? in : layer.group;
  buffers.add(prefix + ".qweight", "I32", packed_rows(layer.codes, bits).t());
  buffers.add(prefix + ".qzeros", "I32", packed_rows(zeros.to(at::kChar), bits));
  buffers.add(prefix + ".scales", "F16", half.t());
  buffers.add(prefix + ".g_idx", "I32", at::arange(in, at::kInt).floor_divide(group).to(at::kInt));
  ++report.num_layers;
}

struct PlainType {
  std::string file, config;
  at::ScalarType type;
};

PlainType plain_type(const std::string& dtype) {
  if (dtype == "f16" || dtype == "auto") return {"F16", "float16", at::kHalf};
  if (dtype == "bf16") return {"BF16", "bfloat16", at::kBFloat16};
  if (dtype == "fp32") return {"F32", "float32", at::kFloat};
  fail(ErrorCode::usage, "--dtype {}: what is not quantized is written in f16, bf16 or fp32",
       dtype);
}

void add_plain(TensorBuffers& buffers, const std::string& name, const at::Tensor& values,
               const PlainType& type, const std::string& where, GptqExport& report) {
  const at::Tensor rounded = values.to(type.type);
  if (!rounded.isfinite().all().item<bool>()) {
    refuse(where,
           fmt::format("{} holds numbers beyond {}; choose --dtype bf16", name, type.config));
  }
  if (type.type == at::kHalf) {
    std::string lost = lost_rows_text(name, values, kLargestLostInHalf);
    if (!lost.empty()) report.lost_rows.push_back(std::move(lost));
  }
  buffers.add(name, type.file, rounded);
}

Json quantization_config(const QuantizedModelInfo& info) {
  Json json;
  json["quant_method"] = "gptq";
  json["checkpoint_format"] = "gptq";
  json["bits"] = info.grid.bits;
  json["group_size"] = info.grid.group == 0 ? -1 : info.grid.group;
  json["sym"] = info.grid.symmetric;
  json["desc_act"] = false;  // columns keep their order: act-order is static
  json["lm_head"] = false;
  json["meta"] = {{"quantizer", "osp"}, {"method", info.method}, {"profile", info.profile}};
  return json;
}

}  // namespace

GptqExport export_gptq(const std::string& model, const std::string& path,
                       const std::string& dtype) {
  // Check that the layout can carry the model.
  const std::string dir = find_model_dir(model);
  const PlainType plain = plain_type(dtype);
  if (!is_quantized_model_dir(dir)) {
    fail(ErrorCode::usage, "{}: not quantized; run osp quantize first", dir);
  }
  const QuantizedFolder folder(dir);
  check_model(folder.info(), dir);
  const ModelConfig config = stored_config(folder.config());
  if (config.has_experts()) {
    refuse(dir,
           "it has experts, for which osp does not write this layout; the quantized folder "
           "itself holds them");
  }
  // Repack the tensors part by part.
  GptqExport report;
  TensorBuffers buffers;
  for (int64_t part = kNoLayer; part < config.layers; ++part) {  // outside the blocks first
    QuantizedWeights weights;
    const ParameterStore store = folder.read(part, weights);
    for (const StoredTensor& stored : stored_tensors(config, store.specs)) {
      const auto layer = joined_layer(stored, store, weights);
      if (layer) {
        add_layer(buffers, stored.name, *layer, dir, report);
      } else {
        add_plain(buffers, stored.name, gather_stored(stored, store), plain, dir, report);
      }
    }
  }
  write_folder_atomic(path, [&](const std::string& temporary) {
    write_safetensors(temporary + "/model.safetensors", buffers.entries, {{"format", "pt"}});
    copy_model_files(dir, temporary, path);
    const Json quantization = quantization_config(folder.info());
    write_file_atomic(temporary + "/quantize_config.json", json_text(quantization, 2) + "\n");
    Json json = folder.config_json();
    json["quantization_config"] = quantization;
    json["dtype"] = plain.config;
    write_file_atomic(temporary + "/config.json", json_text(json, 2) + "\n");
  });
  return report;
}

}  // namespace osp
