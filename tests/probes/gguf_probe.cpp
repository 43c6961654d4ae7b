// Reads GGUF files for tests/python/test_gguf*.py.
//
//   gguf_probe tensors FILE.gguf OUT.safetensors     every tensor in fp32
//   gguf_probe metadata FILE.gguf OUT.json           the metadata, values as JSON
//   gguf_probe quantize TYPE IN.safetensors OUT.safetensors
//                                        fp32 tensors to blocks of TYPE (F16, Q8_0), as rows of U8
//
// Ends with osp's exit status for a file that it refuses.
#include <cstdio>
#include <deque>
#include <string>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/formats/gguf.h"
#include "osp/formats/gguf_quantize.h"
#include "osp/formats/safetensors.h"

namespace {

using osp::GgufType;

std::span<const std::byte> bytes_of(const std::vector<float>& values) {
  return std::as_bytes(std::span(values));
}

void write_tensors(const osp::GgufFile& file, const std::string& out) {
  std::deque<std::vector<float>> held;
  std::vector<osp::TensorEntry> entries;
  for (const auto& [name, tensor] : file.tensors()) {
    int64_t count = 1;
    for (const int64_t dimension : tensor.shape) count *= dimension;
    std::vector<float>& values = held.emplace_back(static_cast<size_t>(count));
    osp::gguf_dequantize(tensor.type, tensor.data, values);
    entries.push_back({name, "F32", tensor.shape, bytes_of(values)});
  }
  osp::write_safetensors(out, entries);
}

osp::Json json_of(const osp::GgufMetadata& metadata, const std::string& key,
                  const osp::GgufValue& value) {
  const bool real = value.type == GgufType::f32 || value.type == GgufType::f64;
  if (value.type == GgufType::string) {
    return value.is_array ? osp::Json(metadata.texts(key)) : osp::Json(metadata.text(key));
  }
  if (value.type == GgufType::boolean) {
    if (!value.is_array) return metadata.flag(key);
    osp::Json list = osp::Json::array();
    for (const std::byte byte : value.bytes) list.push_back(byte != std::byte{0});
    return list;
  }
  if (value.is_array) {
    return real ? osp::Json(metadata.numbers(key)) : osp::Json(metadata.integers(key));
  }
  return real ? osp::Json(metadata.number(key)) : osp::Json(metadata.integer(key));
}

void write_metadata(const osp::GgufFile& file, const std::string& out) {
  osp::Json json = osp::Json::object();
  for (const auto& [key, value] : file.metadata().values()) {
    json[key] = json_of(file.metadata(), key, value);
  }
  osp::write_file_atomic(out, json.dump());
}

void write_blocks(osp::GgufTensorType type, const std::string& in, const std::string& out) {
  const osp::SafetensorsFile input = osp::SafetensorsFile::open(in);
  const osp::GgufTypeInfo& info = osp::gguf_type_info(type);
  std::deque<std::vector<std::byte>> held;
  std::vector<osp::TensorEntry> entries;
  for (const auto& [name, view] : input.tensors()) {
    OSP_CHECK(view.dtype == "F32" && view.shape.size() == 2, "{}: {}", name, view.dtype);
    std::vector<float> values(view.data.size() / sizeof(float));
    std::memcpy(values.data(), view.data.data(), view.data.size());
    const int64_t row_bytes = view.shape[1] / info.block_size * info.block_bytes;
    auto& blocks = held.emplace_back(static_cast<size_t>(view.shape[0] * row_bytes));
    osp::gguf_quantize(type, values, blocks);
    entries.push_back({name, "U8", {view.shape[0], row_bytes}, blocks});
  }
  osp::write_safetensors(out, entries);
}

void run(const std::vector<std::string>& words) {
  OSP_CHECK(words.size() >= 3, "gguf_probe COMMAND IN OUT");
  if (words[0] == "quantize") {
    OSP_CHECK(words.size() == 4, "gguf_probe quantize TYPE IN OUT");
    const auto type = osp::gguf_written_type(words[1]);
    OSP_CHECK(type.has_value(), "gguf_probe quantize TYPE: {} is not written", words[1]);
    write_blocks(*type, words[2], words[3]);
    return;
  }
  const osp::GgufFile file = osp::GgufFile::open(words[1]);
  if (words[0] == "tensors") {
    write_tensors(file, words[2]);
  } else {
    OSP_CHECK(words[0] == "metadata", "unknown command {}", words[0]);
    write_metadata(file, words[2]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run({argv + 1, argv + argc});
    return 0;
  } catch (const osp::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return osp::exit_status(error.code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gguf_probe: %s\n", error.what());
    return 1;
  }
}
