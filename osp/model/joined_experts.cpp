#include "osp/model/joined_experts.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>

namespace osp {
namespace {

constexpr const char* kGateUp = ".mlp.experts.gate_up_proj";
constexpr const char* kDown = ".mlp.experts.down_proj";

bool is_bias(const ParameterSpec& spec) { return spec.kind == ParameterKind::bias; }

// Parameters of each expert in the tensor: gate and up, or down.
int64_t parts_of_expert(const StoredTensor& stored) {
  return static_cast<int64_t>(stored.parameters.size()) / stored.shape[0];
}

// Calls f with a parameter's place in stored.parameters and its view of the tensor.
template <class F>
void for_each_part(const StoredTensor& stored, const at::Tensor& tensor, const F& f) {
  const int64_t per = parts_of_expert(stored);
  for (int64_t expert = 0; expert < stored.shape[0]; ++expert) {
    const at::Tensor own = tensor.select(0, expert);
    const at::Tensor rows = own.dim() == 2 ? own.t() : own;
    for (int64_t part = 0; part < per; ++part) {
      f(static_cast<size_t>(expert * per + part), rows.slice(0, part, rows.size(0), per));
    }
  }
}

}  // namespace

bool is_joined_experts(const std::string& name) {
  return name.ends_with(kGateUp) || name.ends_with(kDown);
}

bool joins_experts(const ParameterSpec& spec, ExpertLayout layout) {
  if (spec.expert < 0 || layout == ExpertLayout::apart) return false;
  return layout == ExpertLayout::interleaved || !is_bias(spec);
}

std::string joined_expert_name(const ParameterSpec& spec) {
  return fmt::format("model.layers.{}{}{}", spec.layer,
                     spec.role == ParameterRole::down ? kDown : kGateUp,
                     is_bias(spec) ? "_bias" : "");
}

void join_expert(std::vector<StoredTensor>& stored, const std::string& name, ExpertLayout layout,
                 const ParameterSpec& spec, int64_t parameter) {
  const bool interleaved = layout == ExpertLayout::interleaved;
  const int64_t rows = spec.role == ParameterRole::down ? spec.shape[0] : 2 * spec.shape[0];
  // The tensors of a block are the last ones that were made.
  const auto last = std::find_if(stored.rbegin(), stored.rend(),
                                 [&](const StoredTensor& tensor) { return tensor.name == name; });
  const bool is_new = last == stored.rend();
  StoredTensor& tensor =
      is_new ? stored.emplace_back(StoredTensor{
                   .name = name, .alias = {}, .shape = {0, rows}, .parameters = {}, .rows = {}})
             : *last;
  if (is_new && !is_bias(spec)) {
    tensor.shape.insert(tensor.shape.end() - int(interleaved), spec.shape[1]);
  }
  if (interleaved) tensor.order = StoredOrder::interleaved;
  tensor.parameters.push_back(parameter);
  tensor.rows.push_back(spec.shape[0]);
  if (spec.role != ParameterRole::up) ++tensor.shape[0];
}

std::vector<at::Tensor> split_interleaved(const StoredTensor& stored, const at::Tensor& tensor) {
  std::vector<at::Tensor> parts(stored.parameters.size());
  for_each_part(stored, tensor, [&](size_t i, const at::Tensor& rows) { parts[i] = rows; });
  return parts;
}

at::Tensor join_interleaved(const StoredTensor& stored, const std::vector<at::Tensor>& parts) {
  const at::Tensor tensor = at::empty(stored.shape, parts[0].options());
  for_each_part(stored, tensor, [&](size_t i, at::Tensor rows) { rows.copy_(parts[i]); });
  return tensor;
}

}  // namespace osp
