#include "osp/formats/gguf_writer.h"

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/formats/gguf.h"

namespace osp {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint64_t kDataAlignment = 32;
constexpr size_t kLongestName = 63;

template <class Number>
void append(std::string& bytes, Number value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void append_text(std::string& bytes, std::string_view text) {
  append(bytes, uint64_t{text.size()});
  bytes.append(text);
}

uint64_t padded(uint64_t size) {
  return (size + kDataAlignment - 1) / kDataAlignment * kDataAlignment;
}

}  // namespace

uint64_t gguf_tensor_bytes(const GgufTensorEntry& tensor) {
  const GgufTypeInfo& info = gguf_type_info(tensor.type);
  uint64_t count = 1;
  for (const int64_t dimension : tensor.shape) count *= static_cast<uint64_t>(dimension);
  OSP_CHECK(tensor.shape.empty() || tensor.shape.back() % info.block_size == 0,
            "{}: rows of {} in blocks of {}", tensor.name, tensor.shape.back(), info.block_size);
  return count / info.block_size * info.block_bytes;
}

void GgufMetadataWriter::begin(std::string_view key, uint32_t type) {
  OSP_CHECK(keys_.insert(std::string(key)).second, "metadata {} is there already", key);
  append_text(bytes_, key);
  append(bytes_, type);
}

void GgufMetadataWriter::text(std::string_view key, std::string_view value) {
  begin(key, static_cast<uint32_t>(GgufType::string));
  append_text(bytes_, value);
}

void GgufMetadataWriter::u16(std::string_view key, uint16_t value) {
  begin(key, static_cast<uint32_t>(GgufType::u16));
  append(bytes_, value);
}

void GgufMetadataWriter::i32(std::string_view key, int32_t value) {
  begin(key, static_cast<uint32_t>(GgufType::i32));
  append(bytes_, value);
}

void GgufMetadataWriter::u32(std::string_view key, uint32_t value) {
  begin(key, static_cast<uint32_t>(GgufType::u32));
  append(bytes_, value);
}

void GgufMetadataWriter::f32(std::string_view key, float value) {
  begin(key, static_cast<uint32_t>(GgufType::f32));
  append(bytes_, value);
}

void GgufMetadataWriter::flag(std::string_view key, bool value) {
  begin(key, static_cast<uint32_t>(GgufType::boolean));
  append(bytes_, static_cast<uint8_t>(value));
}

void GgufMetadataWriter::texts(std::string_view key, const std::vector<std::string>& values) {
  begin(key, static_cast<uint32_t>(GgufType::array));
  append(bytes_, static_cast<uint32_t>(GgufType::string));
  append(bytes_, uint64_t{values.size()});
  for (const std::string& value : values) append_text(bytes_, value);
}

void GgufMetadataWriter::i32s(std::string_view key, const std::vector<int32_t>& values) {
  begin(key, static_cast<uint32_t>(GgufType::array));
  append(bytes_, static_cast<uint32_t>(GgufType::i32));
  append(bytes_, uint64_t{values.size()});
  for (const int32_t value : values) append(bytes_, value);
}

void GgufMetadataWriter::flags(std::string_view key, const std::vector<bool>& values) {
  begin(key, static_cast<uint32_t>(GgufType::array));
  append(bytes_, static_cast<uint32_t>(GgufType::boolean));
  append(bytes_, uint64_t{values.size()});
  for (const bool value : values) append(bytes_, static_cast<uint8_t>(value));
}

void GgufMetadataWriter::f32s(std::string_view key, const std::vector<float>& values) {
  begin(key, static_cast<uint32_t>(GgufType::array));
  append(bytes_, static_cast<uint32_t>(GgufType::f32));
  append(bytes_, uint64_t{values.size()});
  for (const float value : values) append(bytes_, value);
}

void write_gguf(const std::string& path, const GgufMetadataWriter& metadata,
                const std::vector<GgufTensorEntry>& tensors) {
  std::string head = "GGUF";
  append(head, kVersion);
  append(head, uint64_t{tensors.size()});
  append(head, metadata.count());
  head += metadata.bytes();
  uint64_t offset = 0;
  std::set<std::string_view> names;
  for (const GgufTensorEntry& tensor : tensors) {
    OSP_CHECK(names.insert(tensor.name).second && tensor.name.size() <= kLongestName,
              "tensor name {} is taken or too long", tensor.name);
    append_text(head, tensor.name);
    append(head, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) append(head, tensor.shape[i]);
    append(head, static_cast<uint32_t>(tensor.type));
    append(head, offset);
    offset += padded(gguf_tensor_bytes(tensor));
  }
  head.resize(padded(head.size()), '\0');

  FileWriter file(path);
  file.write(head.data(), head.size());
  std::vector<std::byte> blocks;
  for (const GgufTensorEntry& tensor : tensors) {
    const uint64_t size = gguf_tensor_bytes(tensor);
    blocks.assign(padded(size), std::byte{0});
    tensor.fill(std::span(blocks).first(size));
    file.write(blocks.data(), blocks.size());
  }
  file.close();
}

}  // namespace osp
