#include "osp/runtime/panel_file.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "osp/base/error.h"
#include "osp/formats/safetensors.h"
#include "osp/runtime/head.h"

namespace osp {
namespace {

using kernels::kLineBytes;
using kernels::kPanelOutputs;

constexpr size_t kAlignment = 64;
constexpr const char* kFormat = "osp-panels";

// ---- what the file holds ------------------------------------------------------------------------

// f(name, linear layer, its grid, its outputs and columns) for the linear layers of a block.
template <class Layer, class Function>
void for_linears(Layer& layer, const ModelConfig& config, const Function& f) {
  const int64_t D = config.width, K = config.head_size, inner = config.inner;
  const int64_t all = config.heads * K, keys = config.kv_heads * K;
  f("qkv", layer.qkv, layer.attention_input_grid, all + 2 * keys, D);
  f("attention_output", layer.attention_output, layer.attention_output_grid, D, all);
  f("gate_up", layer.gate_up, layer.mlp_input_grid, 2 * inner, D);
  f("down", layer.down, layer.mlp_product_grid, D, inner);
}

// f(name, numbers by channel, how many there are if any) for the gains and offsets of a block.
template <class Layer, class Function>
void for_channels(Layer& layer, const ModelConfig& config, const Function& f) {
  const int64_t D = config.width, K = config.head_size;
  const int64_t queries = config.heads * K, keys = config.kv_heads * K;
  f("input_gain", layer.input_gain, D);
  f("post_gain", layer.post_gain, D);
  f("query_gain", layer.query_gain, config.qk_norm_wide ? queries : K);
  f("key_gain", layer.key_gain, config.qk_norm_wide ? keys : K);
  f("attention_input_offset", layer.attention_input_offset, D);
  f("attention_output_offset", layer.attention_output_offset, queries);
  f("mlp_input_offset", layer.mlp_input_offset, D);
  f("mlp_product_offset", layer.mlp_product_offset, config.inner);
}

std::string layer_prefix(int64_t layer) { return fmt::format("layers.{}.", layer); }

// ---- writing ------------------------------------------------------------------------------------

template <class Array>
void add(std::vector<TensorEntry>& entries, std::string name, const char* dtype,
         std::vector<int64_t> shape, const Array& numbers) {
  const auto bytes = std::as_bytes(std::span(numbers.data(), numbers.size()));
  entries.push_back({std::move(name), dtype, std::move(shape), bytes});
}

template <class Array>
void add_flat(std::vector<TensorEntry>& entries, std::string name, const Array& numbers) {
  add(entries, std::move(name), "F32", {static_cast<int64_t>(numbers.size())}, numbers);
}

void add_linear(std::vector<TensorEntry>& entries, const std::string& name,
                const PackedLinear& linear) {
  const int64_t panels = linear.panel_count();
  const std::vector<int64_t> by_segment{panels, linear.segments(), kPanelOutputs};
  add(entries, name + ".panels", "U8", {panels, linear.lines(), kLineBytes}, linear.panels);
  add(entries, name + ".scale", "F32", by_segment, linear.scale);
  add(entries, name + ".centre", "F32", by_segment, linear.centre);
  add(entries, name + ".shifted", "I32", by_segment, linear.shifted);
  add_flat(entries, name + ".bias", linear.bias);
}

// ---- reading ------------------------------------------------------------------------------------

class Reader {
 public:
  explicit Reader(const std::string& path)
      : path_(path), file_(std::make_shared<SafetensorsFile>(SafetensorsFile::open(path))) {
    if (metadata("format") != kFormat) {
      fail(ErrorCode::damaged, "{}: is no panel file: its format is \"{}\", expected \"{}\"", path,
           metadata("format"), kFormat);
    }
    check_version("layout", kPanelLayout);
    check_version("numerics", kEngineNumerics);
  }

  std::string metadata(const std::string& key) const {
    const auto found = file_->metadata().find(key);
    return found == file_->metadata().end() ? "" : found->second;
  }

  // The tensor as it is mapped; a copy if another program has moved it off its alignment.
  template <class T>
  SharedArray<T> array(const std::string& name, const char* dtype, int64_t count) const {
    const TensorView& view = file_->at(name);
    const size_t expected = static_cast<size_t>(count) * sizeof(T);
    if (view.dtype != dtype || view.data.size() != expected) {
      fail(ErrorCode::damaged, "{}: tensor {} is {} with {} bytes, expected {} with {}", path_,
           name, view.dtype, view.data.size(), dtype, expected);
    }
    const auto* data = view.data.data();
    if (reinterpret_cast<uintptr_t>(data) % kAlignment == 0 || count == 0) {
      return {std::span(reinterpret_cast<const T*>(data), static_cast<size_t>(count)), file_};
    }
    std::vector<T> copy(static_cast<size_t>(count));
    std::memcpy(copy.data(), data, expected);
    return copy;
  }

  SharedArray<float> floats(const std::string& name, int64_t count) const {
    SharedArray<float> numbers = array<float>(name, "F32", count);
    const auto finite = [](float x) { return std::isfinite(x); };
    if (!std::all_of(numbers.data(), numbers.data() + numbers.size(), finite)) {
      fail(ErrorCode::damaged, "{}: tensor {} has a number that is not finite", path_, name);
    }
    return numbers;
  }

  // `count` numbers or none.
  SharedArray<float> channels(const std::string& name, int64_t count) const {
    return floats(name, file_->at(name).data.empty() ? 0 : count);
  }

  std::vector<float> vector(const std::string& name, int64_t count) const {
    const SharedArray<float> numbers = channels(name, count);
    return {numbers.data(), numbers.data() + numbers.size()};
  }

  [[noreturn]] void wrong_sums(const std::string& name, int64_t row) const {
    fail(ErrorCode::damaged,
         "{}: the codes of {}, row {}, do not have the sum that is stored with them: the file was "
         "changed; export it again",
         path_, name, row);
  }

 private:
  void check_version(const char* key, int own) const {
    const std::string version = metadata(key);
    if (version == std::to_string(own)) return;
    fail(ErrorCode::unsupported,
         "{}: has version \"{}\" of its {}, this osp reads version {}; export it again", path_,
         version, key, own);
  }

  std::string path_;
  std::shared_ptr<const SafetensorsFile> file_;
};

PackedLinear read_linear(const Reader& reader, const std::string& name, int64_t outputs,
                         int64_t columns, int64_t segment, int bits) {
  PackedLinear linear;
  linear.bits = bits;
  linear.outputs = outputs;
  linear.columns = columns;
  linear.segment = segment;
  const int64_t scales = outputs * linear.segments();
  linear.panels =
      reader.array<uint8_t>(name + ".panels", "U8", linear.panel_count() * linear.panel_bytes());
  linear.scale = reader.floats(name + ".scale", scales);
  linear.centre = reader.floats(name + ".centre", scales);
  linear.shifted = reader.array<int32_t>(name + ".shifted", "I32", scales);
  linear.bias = reader.channels(name + ".bias", outputs);
  linear.find_all_eight();
  return linear;
}

// Σ (code + 8, or 128) of each row and segment, by products with ones, against c + u · segment.
void check_sums(const Reader& reader, const std::string& name, const PackedLinear& linear,
                const kernels::CodeProducts& products) {
  const std::vector<int8_t> ones(static_cast<size_t>(linear.segment), int8_t{1});
  const int64_t lines = linear.segment / linear.line_columns();
  const kernels::CodeTile sum = products.tiles(linear.bits)[0][0];
  for (int64_t i = 0; i < linear.panel_count() * linear.segments(); ++i) {
    int32_t sums[kPanelOutputs];
    sum(ones.data(), linear.panels.data() + i * lines * kLineBytes, lines * kLineBytes, lines, 1,
        sums);
    for (int64_t o = 0; o < kPanelOutputs; ++o) {
      const auto at = static_cast<size_t>(i * kPanelOutputs + o);
      const int64_t shift = int64_t{linear.shifted[at]} * linear.segment;
      if (linear.centre[at] != static_cast<float>(sums[o] - shift)) {
        reader.wrong_sums(name, i / linear.segments() * kPanelOutputs + o);
      }
    }
  }
}

HeadPanels read_head(const Reader& reader, const ModelConfig& config) {
  const int64_t panels = (config.vocabulary + kPanelOutputs - 1) / kPanelOutputs;
  const int64_t bytes = HeadPanels::panel_bytes(config.width, 8);
  HeadPanels head{.bits = 8,
                  .panels = reader.array<uint8_t>("head8.panels", "U8", panels * bytes),
                  .scale = reader.floats("head8.scale", panels * kPanelOutputs),
                  .weight_sum = reader.floats("head8.weight_sum", panels * kPanelOutputs)};
  for (int64_t panel = 0; panel < panels; ++panel) {
    int32_t sums[kPanelOutputs] = {};
    const uint8_t* lines = head.panels.data() + panel * bytes;
    for (int64_t i = 0; i < bytes; i += kLineBytes) {
      for (int64_t o = 0; o < kPanelOutputs; ++o) {
        for (int64_t j = 0; j < 4; ++j) sums[o] += std::abs(int{lines[i + 4 * o + j]} - 128);
      }
    }
    for (int64_t o = 0; o < kPanelOutputs; ++o) {
      const auto v = static_cast<size_t>(panel * kPanelOutputs + o);
      if (head.weight_sum[v] != head.scale[v] * static_cast<float>(sums[o])) {
        reader.wrong_sums("head8", static_cast<int64_t>(v));
      }
    }
  }
  return head;
}

}  // namespace

void write_panel_file(const RuntimeModel& model, const kernels::EngineKernels& kernels,
                      const std::string& source, const std::string& path) {
  const ModelConfig& config = model.config;
  const HeadPanels head =
      pack_head(model.head_table(), config.vocabulary, config.width, 8, kernels);
  std::vector<TensorEntry> entries;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const std::string prefix = layer_prefix(static_cast<int64_t>(i));
    for_linears(model.layers[i], config,
                [&](const char* name, const PackedLinear& linear, const auto&, int64_t, int64_t) {
                  add_linear(entries, prefix + name, linear);
                });
    for_channels(model.layers[i], config, [&](const char* name, const auto& numbers, int64_t) {
      add_flat(entries, prefix + name, numbers);
    });
  }
  add_flat(entries, "final_gain", model.final_gain);
  const auto rows = static_cast<int64_t>(head.scale.size());
  const int64_t lines = HeadPanels::panel_bytes(config.width, 8) / kLineBytes;
  add(entries, "head8.panels", "U8", {rows / kPanelOutputs, lines, kLineBytes}, head.panels);
  add_flat(entries, "head8.scale", head.scale);
  add_flat(entries, "head8.weight_sum", head.weight_sum);
  // Last, because their sizes may leave what follows off its alignment.
  const std::vector<int64_t> table{config.vocabulary, config.width};
  add(entries, "embedding", "F16", table, model.embedding);
  if (!config.tied) add(entries, "head", "F16", table, model.head);
  write_safetensors(path, entries,
                    {{"format", kFormat},
                     {"layout", std::to_string(kPanelLayout)},
                     {"numerics", std::to_string(kEngineNumerics)},
                     {"source_sha256", source}},
                    kAlignment);
}

std::unique_ptr<const RuntimeModel> map_panel_file(const QuantizedParts& parts,
                                                   const kernels::CodeProducts& products,
                                                   const std::string& path) {
  const ModelConfig& config = parts.config;
  std::unique_ptr<RuntimeModel> model = runtime_frame(parts);
  const Reader reader(path);
  const int bits = parts.bits.weights.bits <= 4 ? 4 : 8;
  for (size_t i = 0; i < model->layers.size(); ++i) {
    const std::string prefix = layer_prefix(static_cast<int64_t>(i));
    for_linears(model->layers[i], config,
                [&](const char* name, PackedLinear& linear, const kernels::CodeGrid& grid,
                    int64_t outputs, int64_t columns) {
                  linear = read_linear(reader, prefix + name, outputs, columns, grid.segment, bits);
                  check_sums(reader, prefix + name, linear, products);
                });
    for_channels(model->layers[i], config,
                 [&](const char* name, std::vector<float>& numbers, int64_t count) {
                   numbers = reader.vector(prefix + name, count);
                 });
  }
  model->final_gain = reader.vector("final_gain", config.width);
  model->packed_head = read_head(reader, config);
  const int64_t table = config.vocabulary * config.width;
  model->embedding = reader.array<uint16_t>("embedding", "F16", table);
  if (!config.tied) model->head = reader.array<uint16_t>("head", "F16", table);
  return model;
}

std::string panel_file_source(const std::string& path) {
  return Reader(path).metadata("source_sha256");
}

}  // namespace osp
