#include "osp/export/gptq_export.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>

#include "osp/base/error.h"
#include "osp/model/model_dir.h"

namespace osp {
namespace {

void check_gptq(const CodedModel& model, const std::string& where) {
  check_coded_model(model, "the GPTQ layout", where);
  const QuantizedModelInfo& info = model.info();
  if (!info.grid.is_integer()) {
    refuse_export(where,
                  fmt::format("the GPTQ layout holds integers, these weights are {} numbers; the "
                              "quantized folder itself is what other programs load",
                              info.bits.weights.text()));
  }
  const int64_t bits = info.grid.bits;
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    refuse_export(
        where, fmt::format("the GPTQ layout holds 2, 3, 4 or 8 bits, these weights have {}", bits));
  }
}

void add_gptq_layer(TensorBuffers& buffers, const CodedTensor& tensor, const std::string& where,
                    CodedExport& report) {
  const std::string& name = tensor.stored.name;
  const QuantizedLinear& layer = *tensor.layer;
  const int64_t bits = layer.bits, out = layer.rows(), in = layer.columns();
  if (in * bits % 32 != 0 || out * bits % 32 != 0) {
    refuse_export(where, fmt::format("{} is [{}, {}]: the GPTQ layout packs {}-bit codes into "
                                     "whole words of 32 bits along both",
                                     name, out, in, bits));
  }
  const at::Tensor half = half_scale(layer, name, where, report);
  const int64_t lowest = -(int64_t{1} << (bits - 1));
  at::Tensor zeros = at::full({layer.groups(), out}, -1, at::kChar);
  if (!layer.symmetric()) {
    if (layer.zero.eq(lowest).any().item<bool>()) {
      refuse_export(where,
                    fmt::format("{} has a zero point of {} (all weights of a group have one sign), "
                                "which version 1 of the GPTQ layout cannot hold; quantize with "
                                "symmetric weights",
                                name, lowest));
    }
    zeros = layer.zero.t().sub(1);
  }
  const std::string prefix = layer_name(name);
  const int64_t group = layer.group == 0 ? in : layer.group;
  buffers.add(prefix + ".qweight", "I32", packed_rows(layer.codes, bits).t());
  buffers.add(prefix + ".qzeros", "I32", packed_rows(zeros.to(at::kChar), bits));
  buffers.add(prefix + ".scales", "F16", half.t());
  buffers.add(prefix + ".g_idx", "I32",
              tensor.column_group.defined()
                  ? tensor.column_group
                  : at::arange(in, at::kInt).floor_divide(group).to(at::kInt));
  ++report.num_layers;
}

Json gptq_config(const QuantizedModelInfo& info, bool reordered) {
  Json json;
  json["quant_method"] = "gptq";
  json["checkpoint_format"] = "gptq";
  json["bits"] = info.grid.bits;
  json["group_size"] = info.grid.group == 0 ? -1 : info.grid.group;
  json["sym"] = info.grid.symmetric;
  json["desc_act"] = reordered;  // act-order of osp is static: columns keep their order
  json["lm_head"] = false;
  json["meta"] = {{"quantizer", "osp"}, {"method", info.method}, {"profile", info.profile}};
  return json;
}

}  // namespace

CodedExport export_gptq(const std::string& model, const std::string& path,
                        const std::string& dtype) {
  // Check that the layout can carry the model.
  const std::string dir = find_model_dir(model);
  const PlainType plain = plain_type(dtype, "f16");
  const std::unique_ptr<CodedModel> source = open_coded_model(dir);
  check_gptq(*source, dir);
  // Repack the tensors.
  CodedExport report;
  TensorBuffers buffers;
  bool reordered = false;
  source->each([&](const CodedTensor& tensor) {
    if (tensor.layer == nullptr) {
      add_plain(buffers, tensor, plain, dir, report);
      if (report.plain_layers.empty()) return;
      refuse_export(dir,
                    report.plain_layers.front() +
                        " has no codes, and the GPTQ layout expects them in every linear layer "
                        "of a block; --format compressed-tensors can leave some out");
    }
    add_gptq_layer(buffers, tensor, dir, report);
    reordered = reordered || tensor.column_group.defined();
  });
  write_coded_folder(dir, path, buffers, *source, gptq_config(source->info(), reordered), plain,
                     true);
  return report;
}

}  // namespace osp
