// safetensors: strict reader and writer of bytes; knows no tensor library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "osp/base/file.h"

namespace osp {

// One tensor of a file. `data` points into the mapping.
struct TensorView {
  std::string dtype;  // "F32", "BF16", "I64" … as in the file
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};

// Size of one element in bits for a dtype name, 0 if unknown.
int64_t safetensors_dtype_bits(const std::string& dtype);

// A validated safetensors file held as a mapping.
class SafetensorsFile {
 public:
  // Error(damaged) with file, tensor and rule that is broken; every check of docs/formats.md
  // happens before any allocation that depends on the file's numbers.
  static SafetensorsFile open(const std::string& path);
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const TensorView& at(const std::string& name) const;  // Error(damaged) if absent

 private:
  explicit SafetensorsFile(MappedFile file) : file_(std::move(file)) {}
  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Parses header and layout of a whole file image; used by SafetensorsFile and by the fuzz target.
void parse_safetensors(std::span<const std::byte> bytes, const std::string& where,
                       std::map<std::string, TensorView>& tensors,
                       std::map<std::string, std::string>& metadata);

// One tensor to be written.
struct TensorEntry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
};

// Streams header and data to `path` (FileWriter, fsynced), tensors in the given order, the first of
// them at a multiple of `alignment` (of 8) by header padding. Not atomic by itself: write into a
// temporary folder or name.
void write_safetensors(const std::string& path, const std::vector<TensorEntry>& tensors,
                       const std::map<std::string, std::string>& metadata = {},
                       size_t alignment = 8);

}  // namespace osp
