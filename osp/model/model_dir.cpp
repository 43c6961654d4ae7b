#include "osp/model/model_dir.h"

#include <ATen/ops/empty.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/base/json.h"
#include "osp/base/json_text.h"
#include "osp/formats/safetensors.h"
#include "osp/model/gguf_model.h"
#include "osp/model/hf_family.h"
#include "osp/model/joined_experts.h"
#include "osp/model/model_description.h"
#include "osp/model/packed_experts.h"
#include "osp/model/packed_torchao.h"
#include "osp/model/packed_weights.h"
#include "osp/model/tensor_values.h"
#include "osp/model/weight_files.h"
#include "osp/model/wrapped_model.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

// How the files hold experts.
ExpertLayout expert_layout(const WeightFiles& weights, const ModelConfig& config) {
  if (written_experts(config) == ExpertLayout::interleaved) return ExpertLayout::interleaved;
  for (const auto& [name, source] : weights.tensors) {
    if (is_joined_experts(name)) return ExpertLayout::joined;
  }
  return ExpertLayout::apart;
}

bool is_ignored(const std::string& name, const Family& family) {
  for (const std::string& ending : family.ignored) {
    if (name.ends_with(ending)) return true;
  }
  return false;
}

// A tied head may be stored as a copy of the embedding, in whatever type; its values count.
void check_tied_copy(const TensorSource& head, const TensorSource& embedding) {
  const TensorView& copy = *head.view;
  const TensorView& table = *embedding.view;
  bool same = copy.shape == table.shape && is_read_as_fp32(copy.dtype);
  if (same && copy.dtype == table.dtype) {
    same = std::memcmp(copy.data.data(), table.data.data(), table.data.size()) == 0;
  } else if (same) {
    const at::Tensor a = at::empty(copy.shape, at::kFloat), b = at::empty(copy.shape, at::kFloat);
    copy_to_fp32(copy, a.mutable_data_ptr<float>());
    copy_to_fp32(table, b.mutable_data_ptr<float>());
    same = a.equal(b);
  }
  if (!same) {
    fail(ErrorCode::damaged,
         "{}: the head differs from the embedding, but config.json says tie_word_embeddings = true",
         head.file);
  }
}

// The name of a part of a packed layer's weight: NAME.part of NAME.weight, NAME_part of experts.
std::string part_name(const std::string& weight, const std::string& ending) {
  if (!weight.ends_with(".weight")) return weight + ending;
  return weight.substr(0, weight.size() - std::strlen("weight")) + ending;
}

// True if a tensor holds codes by its type: those of FP8 and int8 have the name of plain weights.
bool holds_codes(const WeightFiles& weights, const std::string& name) {
  const auto found = weights.tensors.find(name);
  return found != weights.tensors.end() && !is_read_as_fp32(found->second.view->dtype);
}

// The layout of a tensor; none if it cannot be packed.
std::optional<PackedLayout> layout_of(const WeightFiles& weights,
                                      const std::optional<PackedLayout>& layout,
                                      const std::string& tensor) {
  if (!layout || layout->kind != PackedKind::torchao) return layout;
  return torchao_layout(weights.metadata, tensor, weights.where);
}

// True if the files have a matrix packed; then its parts are expected.
bool find_packed(const WeightFiles& weights, const std::optional<PackedLayout>& all,
                 const StoredTensor& tensor, std::set<std::string>& expected) {
  const std::optional<PackedLayout> layout = layout_of(weights, all, tensor.name);
  if (!layout) return false;
  const bool of_experts = layout->kind == PackedKind::mxfp4_experts;
  if (of_experts ? tensor.order != StoredOrder::interleaved || tensor.shape.size() != 3
                 : tensor.shape.size() != 2 || !tensor.name.ends_with(".weight")) {
    return false;
  }
  const PackedParts parts = packed_parts(*layout);
  const std::string first = part_name(tensor.name, parts.needed.front());
  if (first == tensor.name ? !holds_codes(weights, first) : !weights.tensors.contains(first)) {
    return false;
  }
  for (const std::string& ending : parts.needed) {
    const std::string name = part_name(tensor.name, ending);
    if (!weights.tensors.contains(name)) {
      fail(ErrorCode::damaged, "{}: tensor {} is missing", weights.where, name);
    }
    expected.insert(name);
  }
  for (const std::string& ending : parts.optional) {
    expected.insert(part_name(tensor.name, ending));
  }
  return true;
}

// True for a scale of keys and values that the layout's program rounds and osp does not.
bool is_cache_scale(const std::string& name, const std::optional<PackedLayout>& layout) {
  if (!layout || !layout->rounds_cache) return false;
  for (const char* ending : {".k_scale", ".v_scale", ".q_scale", ".k_zero_point", ".v_zero_point",
                             "_proj.output_scale", "_proj.output_zero_point"}) {
    if (name.ends_with(ending)) return true;
  }
  return false;
}

// The place of each tensor of the model, without a view where it is packed. Checks that every one
// is there with its shape and a known type, and that nothing else is.
std::vector<TensorSource> find_tensors(const WeightFiles& weights, const ModelConfig& config,
                                       const std::vector<StoredTensor>& stored,
                                       const std::optional<PackedLayout>& layout) {
  // Find every tensor that the model needs.
  std::vector<TensorSource> sources;
  std::set<std::string> expected;
  for (const StoredTensor& tensor : stored) {
    if (find_packed(weights, layout, tensor, expected)) {
      sources.push_back({nullptr, weights.where});
      continue;
    }
    auto found = weights.tensors.find(tensor.name);
    if (found == weights.tensors.end()) found = weights.tensors.find(tensor.alias);
    if (found == weights.tensors.end()) {
      fail(ErrorCode::damaged, "{}: tensor {} is missing, expected shape {} by config.json",
           weights.where, tensor.name, shown(tensor.shape));
    }
    const auto& [name, source] = *found;
    if (!is_read_as_fp32(source.view->dtype)) {
      fail(ErrorCode::unsupported, "{}: tensor {} has type {}; osp reads F32, BF16 and F16",
           source.file, name, source.view->dtype);
    }
    if (source.view->shape != tensor.shape) {
      fail(ErrorCode::damaged, "{}: tensor {} has shape {}, expected {} by config.json",
           source.file, name, shown(source.view->shape), shown(tensor.shape));
    }
    expected.insert(name);
    sources.push_back(source);
  }
  // Refuse every other tensor, except those that say nothing new. A tied head has no parameter, yet
  // files may hold a copy under our name or the family's.
  const std::string head = parameter_name(ParameterRole::head);
  const std::set<std::string> heads = {head, stored_name(config, head)};
  for (const auto& [name, source] : weights.tensors) {
    if (expected.contains(name) || is_ignored(name, *find_family(config.family))) continue;
    if (is_cache_scale(name, layout)) continue;
    if (config.tied && heads.contains(name)) {
      check_tied_copy(source, sources.front());  // the embedding is the first tensor of a model
      continue;
    }
    fail(ErrorCode::damaged, "{}: tensor {} belongs to no part of the model that config.json says",
         source.file, shown(name));
  }
  return sources;
}

// A packed matrix: what finds its parts, and what begins the messages.
struct PackedTensor {
  FindPart find;
  std::string where;
};
PackedTensor packed_tensor(const WeightFiles& weights, const StoredTensor& tensor) {
  return {[&](const std::string& ending) -> const TensorView* {
            const auto found = weights.tensors.find(part_name(tensor.name, ending));
            return found == weights.tensors.end() ? nullptr : found->second.view;
          },
          fmt::format("{}: {}", weights.where, shown(tensor.name))};
}

// The numbers of a packed matrix. Error(damaged) as read_fp32.
at::Tensor read_packed(const WeightFiles& weights, const PackedLayout& all,
                       const StoredTensor& tensor) {
  const PackedLayout layout = *layout_of(weights, all, tensor.name);
  const auto [find, where] = packed_tensor(weights, tensor);
  if (layout.kind == PackedKind::mxfp4_experts) {
    return unpack_mxfp4_experts(tensor.shape, find, where);
  }
  return unpack_weight(layout, tensor.shape[0], tensor.shape[1], find, where);
}

// A configuration that says codes where the files have none: neither can be believed.
void check_packed(const std::optional<PackedLayout>& layout,
                  const std::vector<TensorSource>& sources, const std::string& where) {
  if (!layout || std::ranges::any_of(sources, [](const auto& s) { return s.view == nullptr; })) {
    return;
  }
  fail(ErrorCode::damaged,
       "{}: no tensor holds codes, but quantization_config of config.json says {}; remove the key "
       "if the weights are plain",
       where, packed_text(*layout));
}

// A stored tensor in fp32. Error(damaged) at the first element that is NaN or infinite.
at::Tensor read_fp32(const TensorSource& source, const std::string& name) {
  const at::Tensor tensor = at::empty(source.view->shape, at::kFloat);
  float* out = tensor.mutable_data_ptr<float>();
  copy_to_fp32(*source.view, out);
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    if (!std::isfinite(out[i])) {
      fail(ErrorCode::damaged, "{}: tensor {} holds {} at element {}, expected finite weights",
           source.file, shown(name), out[i], i);
    }
  }
  return tensor;
}

// The content of config.json: the model, and how other programs packed its weights, if they did.
struct DirConfig {
  HfConfig config;
  std::optional<PackedLayout> layout;
  bool is_wrapped = false;  // the text model of a checkpoint that has more
};

// Whether the files of a wrapped text model have a head of their own.
bool has_head(const std::string& dir) {
  WeightFiles weights = open_weights(dir);
  keep_text_tensors(weights);
  return weights.tensors.contains("lm_head.weight");
}

DirConfig read_dir_config(const std::string& dir) {
  const std::string file = dir + "/config.json";
  Json json = read_json_file(file, kMaxConfigBytes);
  std::optional<PackedLayout> layout = packed_layout(json, file);
  if (layout) json.erase("quantization_config");
  const Json before = json.is_object() ? json.value(kRoundedBeforeKey, Json()) : Json();
  if (!before.is_null()) json.erase(kRoundedBeforeKey);
  const bool is_wrapped = wraps_text_model(json);
  if (is_wrapped) {
    const bool contradicts = contradicts_itself_on_tying(json);
    json = text_model_config(json, file);
    if (contradicts) json["tie_word_embeddings"] = !has_head(dir);
  }
  HfConfig config = parse_hf_config(json, file);
  if (before.is_string()) config.rounded_before = before.get<std::string>();
  if (layout) {
    const std::string& earlier = config.rounded_before;
    config.rounded_before =
        packed_text(*layout) + (earlier.empty() ? "" : "; before that " + earlier);
  }
  return {config, layout, is_wrapped};
}

// A model dir whose files stay mapped.
class ModelDirSource : public ModelSource {
 public:
  explicit ModelDirSource(const std::string& dir) : ModelDirSource(dir, read_dir_config(dir)) {}
  const ModelConfig& config() const override { return config_; }
  std::string rounded_before() const override { return rounded_before_; }
  std::optional<PackedCodes> codes(const StoredTensor& stored,
                                   const std::vector<ParameterSpec>& /*specs*/) const override {
    const auto found = sources_.find(stored.name);
    if (found == sources_.end() || found->second.view != nullptr) return std::nullopt;
    const auto [find, where] = packed_tensor(weights_, stored);
    return unpack_codes_of(*layout_of(weights_, layout_, stored.name), stored.shape[0],
                           stored.shape[1], find, where);
  }
  ParameterStore read(Part part, StoreOptions options) const override {
    options.part = part;
    ParameterStore store = make_parameters(config_, options);
    for (const StoredTensor& stored : stored_tensors(config_, store.specs, experts_)) {
      leave_files_if_stopped("weights were read");
      const TensorSource& source = sources_.at(stored.name);
      if (source.view == nullptr) {
        scatter_stored(stored, read_packed(weights_, *layout_, stored), store);
        continue;
      }
      scatter_stored(stored, read_fp32(source, stored.name), store);
      release_pages(source.view->data);
    }
    sync_compute(store);
    return store;
  }

 private:
  ModelDirSource(const std::string& dir, const DirConfig& read)
      : config_(read.config.model),
        rounded_before_(read.config.rounded_before),
        layout_(read.layout),
        weights_(open_weights(dir)) {
    if (read.is_wrapped) keep_text_tensors(weights_);
    if (config_.experts > 0) experts_ = expert_layout(weights_, config_);
    const std::vector<StoredTensor> stored =
        stored_tensors(config_, parameter_specs(config_), experts_);
    const std::vector<TensorSource> sources = find_tensors(weights_, config_, stored, layout_);
    check_packed(layout_, sources, weights_.where);
    for (size_t i = 0; i < stored.size(); ++i) sources_[stored[i].name] = sources[i];
  }

  ModelConfig config_;
  std::string rounded_before_;
  std::optional<PackedLayout> layout_;
  WeightFiles weights_;
  ExpertLayout experts_ = ExpertLayout::apart;
  std::map<std::string, TensorSource> sources_;  // by the name in the family's files
};

}  // namespace

void refuse_panels(const std::string& dir) {
  fail(ErrorCode::unsupported,
       "{}: holds panels, which the integer engine alone runs (osp generate, serve, score and "
       "eval); "
       "for anything else take the folder that they were made from",
       dir);
}

std::string find_model_dir(const std::string& path) {
  if (is_gguf_path(path)) return path;
  for (const std::string& dir : {path, path + "/model"}) {
    if (path_exists(dir + "/config.json")) return dir;
  }
  fail(ErrorCode::usage,
       "{}: no config.json here or in model/; give a model dir, a checkpoint (step-N), a finished "
       "run folder or a .gguf file",
       path);
}

HfConfig load_model_config(const std::string& path) {
  if (is_gguf_path(path)) return load_gguf_config(path);
  return read_dir_config(find_model_dir(path)).config;
}

bool holds_more_than_text(const std::string& path) {
  const std::string dir = find_model_dir(path);
  return !is_gguf_path(dir) &&
         wraps_text_model(read_json_file(dir + "/config.json", kMaxConfigBytes));
}

std::unique_ptr<ModelSource> open_model(const std::string& path) {
  const std::string found = find_model_dir(path);
  if (is_gguf_path(found)) return open_gguf_model(found);
  return std::make_unique<ModelDirSource>(found);
}

ParameterStore load_model_dir(const std::string& path, const StoreOptions& options) {
  return open_model(path)->read(kWhole, options);
}

void save_tokenizer_files(const std::string& path, const std::string& tokenizer_json,
                          int64_t context, const std::vector<int64_t>& end_tokens) {
  write_file_atomic(path + "/tokenizer.json", tokenizer_json);
  const Tokenizer tokenizer = Tokenizer::from_json(tokenizer_json, path + "/tokenizer.json");
  Json tokenizer_config;
  tokenizer_config["tokenizer_class"] = "PreTrainedTokenizerFast";
  tokenizer_config["model_max_length"] = context;
  tokenizer_config["clean_up_tokenization_spaces"] = false;
  Json generation;
  generation["_from_model_config"] = true;
  if (!end_tokens.empty()) {
    const int32_t first = static_cast<int32_t>(end_tokens.front());
    tokenizer_config["eos_token"] = tokenizer.decode(std::span<const int32_t>(&first, 1));
    generation["eos_token_id"] = end_tokens_json(end_tokens);
    generation["pad_token_id"] = first;
  }
  const auto write_if_absent = [&](const std::string& file, const Json& json) {
    if (!path_exists(file)) write_file_atomic(file, json_text(json, 2) + "\n");
  };
  write_if_absent(path + "/tokenizer_config.json", tokenizer_config);
  write_if_absent(path + "/generation_config.json", generation);
}

void save_model_dir(const ParameterStore& store, const std::string& path,
                    const std::string& tokenizer_json, const SaveOptions& options) {
  // Convert the weights.
  make_directories(path);
  const at::ScalarType type = options.bf16 ? at::kBFloat16 : at::kFloat;
  std::vector<at::Tensor> held;  // keeps converted tensors alive until they are written
  std::vector<TensorEntry> entries;
  for (const StoredTensor& stored : written_tensors(store)) {
    held.push_back(gather_stored(stored, store).to(at::kCPU, type).contiguous());
    const at::Tensor& tensor = held.back();
    entries.push_back({stored.name,
                       options.bf16 ? "BF16" : "F32",
                       stored.shape,
                       {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}});
  }
  write_safetensors(path + "/" + kWeightsFile, entries, written_metadata());
  save_model_description(store.config, path, tokenizer_json, options);
}

std::vector<StoredTensor> written_tensors(const ParameterStore& store) {
  ModelConfig written = store.config;
  if (architecture_name(written) == "OspForCausalLM") written.family = "";
  return stored_tensors(written, store.specs, written_experts(written));
}

std::map<std::string, std::string> written_metadata() { return {{"format", "pt"}}; }

void save_model_description(const ModelConfig& model, const std::string& path,
                            const std::string& tokenizer_json, const SaveOptions& options) {
  // Write the tokenizer and what transformers wants beside it.
  std::vector<int64_t> end_tokens = options.end_tokens;
  if (!tokenizer_json.empty()) {
    const int32_t end =
        Tokenizer::from_json(tokenizer_json, path + "/tokenizer.json").end_of_document();
    if (end_tokens.empty() && end >= 0) end_tokens.push_back(end);
    if (is_plain_llama(model)) {
      save_tokenizer_files(path, tokenizer_json, model.context, end_tokens);
    } else {
      write_file_atomic(path + "/tokenizer.json", tokenizer_json);
    }
  }
  // Write config.json last: a folder that has one is whole.
  std::string config = model_config_json(model, options.bf16 ? "bfloat16" : "float32", end_tokens,
                                         options.outer_tokens);
  if (!options.rounded_before.empty()) {
    Json more = parse_json(config, "config.json");
    more[kRoundedBeforeKey] = options.rounded_before;
    config = json_text(more, 2) + "\n";
  }
  write_file_atomic(path + "/config.json", config);
  fsync_directory(path);
}

}  // namespace osp
