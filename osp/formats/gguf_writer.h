// Writes GGUF files, version 3 with the default alignment of 32 bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "osp/formats/gguf_blocks.h"

namespace osp {

// Metadata entries in the order in which they are added; a key that is taken is a broken invariant.
class GgufMetadataWriter {
 public:
  void text(std::string_view key, std::string_view value);
  void u16(std::string_view key, uint16_t value);
  void u32(std::string_view key, uint32_t value);
  void i32(std::string_view key, int32_t value);
  void f32(std::string_view key, float value);
  void flag(std::string_view key, bool value);
  void texts(std::string_view key, const std::vector<std::string>& values);
  void i32s(std::string_view key, const std::vector<int32_t>& values);
  void flags(std::string_view key, const std::vector<bool>& values);
  void f32s(std::string_view key, const std::vector<float>& values);

  uint64_t count() const { return keys_.size(); }
  const std::string& bytes() const { return bytes_; }

 private:
  void begin(std::string_view key, uint32_t type);
  std::set<std::string, std::less<>> keys_;
  std::string bytes_;
};

// One tensor to be written. Its blocks are asked for when their turn comes, so that no two tensors
// need be in memory at once.
struct GgufTensorEntry {
  std::string name;  // at most 63 bytes, which is what llama.cpp reads
  GgufTensorType type = GgufTensorType::f32;
  std::vector<int64_t> shape;  // slowest dimension first
  std::function<void(std::span<std::byte> blocks)> fill;
};

// Streams to `path` (FileWriter, fsynced), tensors in the given order. Not atomic by itself: write
// under a temporary name. Error(io).
void write_gguf(const std::string& path, const GgufMetadataWriter& metadata,
                const std::vector<GgufTensorEntry>& tensors);

// Bytes of a tensor's blocks, without padding.
uint64_t gguf_tensor_bytes(const GgufTensorEntry& tensor);

}  // namespace osp
