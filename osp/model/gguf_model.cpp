#include "osp/model/gguf_model.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/tensor.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/base/printable.h"
#include "osp/formats/gguf_integers.h"
#include "osp/model/config_keys.h"
#include "osp/model/gguf_family_keys.h"
#include "osp/model/gguf_feature_keys.h"
#include "osp/model/gguf_names.h"
#include "osp/model/gguf_rope.h"
#include "osp/model/hf_family.h"
#include "osp/model/packed_weights.h"

namespace osp {
namespace {

const GgufArchitecture& architecture_of(const GgufMetadata& metadata) {
  const std::string_view name = metadata.text("general.architecture");
  const GgufArchitecture* found = find_gguf_architecture(name);
  if (found == nullptr) {
    fail(ErrorCode::unsupported, "{}: the architecture is \"{}\"; osp reads GGUF files of {}",
         metadata.where(), printable(name), gguf_architectures());
  }
  return *found;
}

// The full name of a key of the file's architecture.
std::string key(const GgufMetadata& metadata, std::string_view name) {
  return fmt::format("{}.{}", architecture_of(metadata).name, name);
}

// An integer that may be given per layer, if it is the same for all.
int64_t same_for_all_layers(const GgufMetadata& metadata, const std::string& name) {
  const auto value = metadata.values().find(name);
  if (value == metadata.values().end() || !value->second.is_array) return metadata.integer(name);
  const std::vector<int64_t> values = metadata.integers(name);
  if (values.empty() || std::any_of(values.begin(), values.end(),
                                    [&](int64_t other) { return other != values[0]; })) {
    fail(ErrorCode::unsupported, "{}: {} differs from layer to layer, which osp does not compute",
         metadata.where(), name);
  }
  return values[0];
}

// The number of layers, checked before a list with an element for each is made.
int64_t layers_of(const GgufMetadata& metadata, const std::string& name) {
  const int64_t layers = metadata.integer(name);
  const Range range = model_field_range("layers");
  if (static_cast<double>(layers) < range.low || static_cast<double>(layers) > range.high) {
    fail(ErrorCode::damaged, "{}: {} is {}, expected a number from {} to {}", metadata.where(),
         name, layers, range.low, range.high);
  }
  return layers;
}

int64_t head_size(const GgufMetadata& metadata, int64_t width, int64_t heads) {
  const int64_t derived = heads > 0 ? width / heads : 0;
  const auto size = [&](const char* name, int64_t fallback) {
    const std::string full = key(metadata, name);
    return metadata.has(full) ? metadata.integer(full) : fallback;
  };
  const int64_t result = size("attention.key_length", derived);
  const bool partial = rotates_a_part(architecture_of(metadata).name);
  for (const char* name : {"attention.value_length", "rope.dimension_count"}) {
    const int64_t other = size(name, result);
    if (partial && other > 0 && other < result &&
        name == std::string_view("rope.dimension_count")) {
      continue;
    }
    if (other != result) {
      fail(ErrorCode::unsupported,
           "{}: {} is {}, but heads have {} channels: osp computes models whose keys and values "
           "have "
           "one size and are rotated whole",
           metadata.where(), key(metadata, name), other, result);
    }
  }
  return result;
}

// The ids that end a text, first the one that other programs use.
Json end_tokens(const GgufMetadata& metadata) {
  std::vector<int64_t> ids;
  for (const char* name : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
    const std::string full = std::string("tokenizer.ggml.") + name;
    if (!metadata.has(full)) continue;
    const int64_t id = metadata.integer(full);
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return Json(ids);
}

const GgufTensor& tensor_at(const GgufFile& file, const std::string& name) {
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end()) {
    fail(ErrorCode::damaged, "{}: tensor {} is missing", file.path(), name);
  }
  return found->second;
}

// Rows of the embedding, which the metadata need not repeat.
int64_t vocabulary_of(const GgufFile& file) {
  const GgufTensor& embedding = tensor_at(file, "token_embd.weight");
  if (embedding.shape.size() != 2) {
    fail(ErrorCode::damaged, "{}: token_embd.weight has shape [{}], expected two dimensions",
         file.path(), fmt::join(embedding.shape, ", "));
  }
  const int64_t rows = embedding.shape[0];
  const GgufMetadata& metadata = file.metadata();
  const std::string size = key(metadata, "vocab_size");
  if (metadata.has(size) && metadata.integer(size) != rows) {
    fail(ErrorCode::damaged, "{}: {} is {}, but token_embd.weight has {} rows", file.path(), size,
         metadata.integer(size), rows);
  }
  return rows;
}

// config.json's "rope_scaling", null for the default embedding.
Json rope_scaling(const GgufFile& file, double base) {
  const auto found = file.tensors().find("rope_freqs.weight");
  if (found == file.tensors().end()) return nullptr;
  const GgufTypeInfo& info = gguf_type_info(found->second.type);
  std::vector<float> divisors(found->second.data.size() / info.block_bytes * info.block_size);
  gguf_dequantize(found->second.type, found->second.data, divisors);
  const Json scaling = rope_scaling_of_divisors(divisors, base);
  if (scaling.is_discarded()) {
    fail(ErrorCode::unsupported,
         "{}: tensor rope_freqs.weight scales the rotary embedding in another way than Llama "
         "3.1 and those after it, which osp recognises",
         file.path());
  }
  return scaling;
}

std::string shown_shape(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void check_tensors(const GgufFile& file, const ModelConfig& config) {
  std::set<std::string> expected = {"rope_freqs.weight"};
  if (config.rope_scaling.type == "longrope") {
    expected.insert({kGgufLongFactors, kGgufShortFactors});
  }
  for (const GgufStoredTensor& stored : gguf_stored_tensors(parameter_specs(config), config)) {
    expected.insert(stored.name);
    const GgufTensor& tensor = tensor_at(file, stored.name);
    if (tensor.shape != stored.shape) {
      fail(ErrorCode::damaged, "{}: tensor {} has shape {}, expected {} by the metadata",
           file.path(), stored.name, shown_shape(tensor.shape), shown_shape(stored.shape));
    }
  }
  for (const auto& [name, tensor] : file.tensors()) {
    if (!expected.contains(name)) {
      fail(ErrorCode::unsupported,
           "{}: tensor \"{}\" belongs to no part of the model that osp computes from the metadata",
           file.path(), printable(name));
    }
  }
}

void read_values(const GgufTensor& tensor, float* out) {
  const GgufTypeInfo& info = gguf_type_info(tensor.type);
  gguf_dequantize(tensor.type, tensor.data,
                  {out, tensor.data.size() / info.block_bytes * info.block_size});
}

// Row r of the file goes to row order[r] of `out`; an empty order leaves the rows as they are.
void read_rows(const GgufTensor& tensor, const std::vector<int64_t>& order, float* out) {
  if (order.empty()) return read_values(tensor, out);
  if (tensor.shape.size() == 1) {  // its blocks, if it has any, span rows
    std::vector<float> values(order.size());
    read_values(tensor, values.data());
    for (size_t row = 0; row < order.size(); ++row) out[order[row]] = values[row];
    return;
  }
  const auto columns = static_cast<size_t>(tensor.shape[1]);
  const size_t row_bytes = tensor.data.size() / order.size();
  for (size_t row = 0; row < order.size(); ++row) {
    gguf_dequantize(tensor.type, tensor.data.subspan(row * row_bytes, row_bytes),
                    {out + static_cast<size_t>(order[row]) * columns, columns});
  }
}

// A parameter of a tensor that holds others beside it: a matrix whose rows begin at row `first` of
// all, or the vector of an expert, whose numbers do; the tensor itself where it holds one alone.
GgufTensor part_of(const GgufTensor& tensor, int64_t first, const std::vector<int64_t>& shape) {
  if (tensor.shape == shape) return tensor;
  OSP_CHECK(tensor.shape.back() == shape.back(), "a part of rows");
  int64_t rows = 1;  // of the last dimension, each of whole blocks
  for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) rows *= tensor.shape[i];
  const size_t row_bytes = tensor.data.size() / static_cast<size_t>(rows);
  const int64_t begin = shape.size() == 2 ? first : first / shape[0];
  const int64_t count = shape.size() == 2 ? shape[0] : 1;
  return {tensor.type, shape,
          tensor.data.subspan(static_cast<size_t>(begin) * row_bytes,
                              static_cast<size_t>(count) * row_bytes)};
}

// The integers of a matrix, row r of the file at row order[r]; none where its type has none.
std::optional<PackedCodes> codes_of(const GgufTensor& tensor, const std::vector<int64_t>& order) {
  const int64_t bits = gguf_integer_bits(tensor.type);
  if (bits == 0 || tensor.shape.size() != 2) return std::nullopt;
  const int64_t rows = tensor.shape[0], columns = tensor.shape[1];
  const int64_t group = gguf_type_info(tensor.type).block_size, groups = columns / group;
  PackedCodes result{.codes = at::empty({rows, columns}, at::kChar),
                     .scale = at::empty({rows, groups}, at::kFloat),
                     .zero = at::empty({rows, groups}, at::kChar),
                     .column_group = {},
                     .bits = bits,
                     .group = group};
  if (!gguf_integers(
          tensor.type, tensor.data,
          {result.codes.mutable_data_ptr<int8_t>(), static_cast<size_t>(rows * columns)},
          {result.scale.mutable_data_ptr<float>(), static_cast<size_t>(rows * groups)},
          {result.zero.mutable_data_ptr<int8_t>(), static_cast<size_t>(rows * groups)})) {
    return std::nullopt;
  }
  if (order.empty()) return result;
  const at::Tensor places = at::tensor(order, at::kLong);
  for (at::Tensor* part : {&result.codes, &result.scale, &result.zero}) {
    *part = at::empty_like(*part).index_copy_(0, places, *part);
  }
  return result;
}

// How the file's tensors are rounded, the type of most numbers first: "GGUF, Q4_K and Q6_K".
std::string rounded_text(const GgufFile& file) {
  std::map<std::string_view, size_t> numbers;
  for (const auto& [name, tensor] : file.tensors()) {
    const GgufTypeInfo& info = gguf_type_info(tensor.type);
    if (info.block_size > 1) {
      numbers[info.name] += tensor.data.size() / info.block_bytes * info.block_size;
    }
  }
  std::vector<std::pair<size_t, std::string_view>> types;
  for (const auto& [name, count] : numbers) types.emplace_back(count, name);
  std::ranges::sort(types, std::greater<>());
  std::string text;
  for (size_t i = 0; i < types.size(); ++i) {
    text += i == 0 ? "GGUF, " : i + 1 == types.size() ? " and " : ", ";
    text += types[i].second;
  }
  if (!file.metadata().has(kGgufRoundedBeforeKey)) return text;
  const std::string before(file.metadata().text(kGgufRoundedBeforeKey));
  return text.empty() ? before : fmt::format("{}; before that {}", text, before);
}

HfConfig config_of(const GgufFile& file, const std::string& path) {
  HfConfig config = parse_hf_config(gguf_config_json(file), path);
  config.rounded_before = rounded_text(file);
  return config;
}

// A GGUF file that stays mapped.
class GgufSource : public ModelSource {
 public:
  explicit GgufSource(const std::string& path)
      : file_(GgufFile::open(path)), config_(config_of(file_, path)) {
    check_tensors(file_, config_.model);
  }
  const ModelConfig& config() const override { return config_.model; }
  std::string rounded_before() const override { return config_.rounded_before; }
  ParameterStore read(Part part, StoreOptions options) const override {
    options.part = part;
    ParameterStore store = make_parameters(config(), options);
    for (size_t i = 0; i < store.specs.size(); ++i) {
      leave_files_if_stopped("weights were read");
      const ParameterSpec& spec = store.specs[i];
      const GgufTensor rows = rows_of_parameter(spec, store.specs);
      read_rows(rows, order_of(spec), store.master(static_cast<int64_t>(i)).data_ptr<float>());
      release_pages(rows.data);
    }
    sync_compute(store);
    return store;
  }
  std::optional<PackedCodes> codes(const StoredTensor& stored,
                                   const std::vector<ParameterSpec>& specs) const override {
    std::optional<PackedCodes> result;
    std::vector<at::Tensor> codes, scales, zeros;
    for (const int64_t parameter : stored.parameters) {
      const ParameterSpec& spec = specs[static_cast<size_t>(parameter)];
      // Embedding and head stay numbers.
      if (spec.kind != ParameterKind::matrix || spec.expert != kNoExpert) return std::nullopt;
      std::optional<PackedCodes> one = codes_of(rows_of_parameter(spec, specs), order_of(spec));
      if (!one || (result && one->bits != result->bits)) return std::nullopt;
      codes.push_back(one->codes);
      scales.push_back(one->scale);
      zeros.push_back(one->zero);
      if (!result) result = std::move(one);
    }
    result->codes = join_rows(config(), stored, codes);
    result->scale = join_rows(config(), stored, scales);
    result->zero = join_rows(config(), stored, zeros);
    return result;
  }

 private:
  // The rows of a parameter, one of `specs`; those before it may stand in the same tensor.
  GgufTensor rows_of_parameter(const ParameterSpec& spec,
                               const std::vector<ParameterSpec>& specs) const {
    const std::string name = gguf_tensor_name(spec, config());
    int64_t first = 0;
    for (const ParameterSpec& other : specs) {
      if (&other == &spec) break;
      if (other.layer == spec.layer && gguf_tensor_name(other, config()) == name) {
        first += other.shape[0];
      }
    }
    return part_of(tensor_at(file_, name), first, spec.shape);
  }

  // For each row of the file the row of ours.
  std::vector<int64_t> order_of(const ParameterSpec& spec) const {
    const int64_t heads = gguf_permuted_heads(spec, config());
    if (heads == 0) return {};
    return gguf_row_order(spec.shape[0], heads, config().rotary_size);
  }

  GgufFile file_;
  HfConfig config_;
};

}  // namespace

Json gguf_config_json(const GgufFile& file) {
  // Refuse what osp does not compute.
  const GgufMetadata& metadata = file.metadata();
  const GgufArchitecture& architecture = architecture_of(metadata);
  refuse_gguf_features(metadata, architecture.name);
  const auto full = [&](const char* name) { return key(metadata, name); };
  const int64_t width = metadata.integer(full("embedding_length"));
  const int64_t heads = same_for_all_layers(metadata, full("attention.head_count"));
  const std::string kv_heads = full("attention.head_count_kv");
  // Sizes.
  Json json;
  json["architectures"] = {architecture.family};
  json["num_hidden_layers"] = layers_of(metadata, full("block_count"));
  json["hidden_size"] = width;
  json["num_attention_heads"] = heads;
  json["num_key_value_heads"] =
      metadata.has(kv_heads) ? same_for_all_layers(metadata, kv_heads) : heads;
  json["head_dim"] = head_size(metadata, width, heads);
  json["intermediate_size"] = same_for_all_layers(metadata, full("feed_forward_length"));
  json["vocab_size"] = vocabulary_of(file);
  json["max_position_embeddings"] = metadata.integer(full("context_length"));
  // Norms, positions, biases, head and end of a text.
  json["rms_norm_eps"] = metadata.number(full("attention.layer_norm_rms_epsilon"));
  const std::string base = full("rope.freq_base");
  json["rope_theta"] = metadata.has(base) ? metadata.number(base) : 10000.0;
  const Json scaling = rope_scaling(file, json["rope_theta"].get<double>());
  if (!scaling.is_null()) json["rope_scaling"] = scaling;
  if (architecture.name == "smollm3") json["no_rope_layer_interval"] = kGgufUnrotatedInterval;
  const auto has = [&](const char* name) { return file.tensors().contains(name); };
  const bool first_three = architecture.name == "glm4" || architecture.name == "seed_oss";
  if (architecture.name != "qwen2") {  // a Qwen 2 has biases of q, k and v, and no key for them
    json["attention_bias"] =
        has("blk.0.attn_q.bias") && (first_three || has("blk.0.attn_output.bias"));
  }
  if (architecture.name == "llama" || architecture.name == "smollm3") {
    json["mlp_bias"] = has("blk.0.ffn_down.bias");
  }
  add_gguf_family_keys(file, architecture.name, json);
  json["tie_word_embeddings"] = !has("output.weight");
  json["eos_token_id"] = end_tokens(metadata);
  return json;
}

HfConfig load_gguf_config(const std::string& path) { return config_of(GgufFile::open(path), path); }

std::unique_ptr<ModelSource> open_gguf_model(const std::string& path) {
  return std::make_unique<GgufSource>(path);
}

}  // namespace osp
