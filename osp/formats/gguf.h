// GGUF files, versions 2 and 3: metadata and tensors as views into the file's bytes.
//
//   "GGUF", u32 version, u64 number of tensors, u64 number of metadata entries;
//   entries: key, u32 type, value; tensors: name, u32 rank, u64 dimensions (fastest first), u32
//   type, u64 offset; padding to general.alignment (32); the tensors' data, each padded likewise.
//
// A string is a u64 length and UTF-8; all integers are little-endian. A file is taken for hostile:
// every count, length and offset is checked against what is left of it before it is used, and what
// is allocated is at most a small multiple of the file's own size. docs/formats.md lists the rules.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "osp/base/file.h"
#include "osp/formats/gguf_blocks.h"

namespace osp {

// As in the file, field "type" of a metadata entry.
enum class GgufType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

// One metadata value; `bytes` points into the file: the elements one after another, a string with
// its length before it.
struct GgufValue {
  GgufType type = GgufType::u8;  // the element type, if it is an array
  bool is_array = false;
  uint64_t count = 1;  // elements
  std::span<const std::byte> bytes;
};

// Metadata by key. The accessors throw Error(damaged) that names file and key if it is absent or of
// another type; any integer type is accepted for an integer, any number for a number.
class GgufMetadata {
 public:
  explicit GgufMetadata(std::string where = "") : where_(std::move(where)) {}
  bool has(std::string_view key) const { return values_.find(key) != values_.end(); }
  const std::map<std::string, GgufValue, std::less<>>& values() const { return values_; }
  // False if the key is there already.
  bool add(std::string key, const GgufValue& value);

  std::string_view text(std::string_view key) const;
  int64_t integer(std::string_view key) const;
  double number(std::string_view key) const;
  bool flag(std::string_view key) const;
  std::vector<std::string_view> texts(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key) const;
  std::vector<double> numbers(std::string_view key) const;
  const std::string& where() const { return where_; }  // the file, for messages

 private:
  const GgufValue& at(std::string_view key, bool is_array, const char* expected) const;
  [[noreturn]] void wrong_type(std::string_view key, const GgufValue& value,
                               const char* expected) const;

  std::string where_;
  std::map<std::string, GgufValue, std::less<>> values_;
};

// One tensor. `data` points into the file.
struct GgufTensor {
  GgufTensorType type = GgufTensorType::f32;
  std::vector<int64_t> shape;  // slowest dimension first, as in PyTorch
  std::span<const std::byte> data;
};

struct GgufContents {
  uint32_t version = 0;
  uint64_t alignment = 32;
  GgufMetadata metadata;
  std::map<std::string, GgufTensor> tensors;
};

// Parses a whole file image; the result points into `bytes`. Error(damaged) or, for big-endian
// files, other versions, nested arrays and tensor types that osp does not read, Error(unsupported);
// both name file, key or tensor, what was found and what was expected.
GgufContents parse_gguf(std::span<const std::byte> bytes, const std::string& where);

// True if a path names a GGUF file rather than a folder: by its ending, ".gguf".
bool is_gguf_path(const std::string& path);

// A validated GGUF file held as a mapping, or all files of a split one (gguf_split.h).
class GgufFile {
 public:
  // `path` names the file, or any part of a split one. Errors as parse_gguf and join_gguf_parts;
  // Error(damaged) names a part that is missing.
  static GgufFile open(const std::string& path);
  const std::string& path() const { return files_.front().path(); }
  const GgufMetadata& metadata() const { return contents_.metadata; }
  const std::map<std::string, GgufTensor>& tensors() const { return contents_.tensors; }
  const GgufContents& contents() const { return contents_; }

 private:
  GgufFile() = default;
  std::vector<MappedFile> files_;
  GgufContents contents_;
};

}  // namespace osp
