// The metadata of one architecture of a GGUF file: keys without its name in front.
//
// Tested by tests/python/test_gguf_architectures.py.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "osp/formats/gguf.h"

namespace osp {

// Refers to the file's metadata, which must outlive it.
class GgufKeys {
 public:
  GgufKeys(const GgufFile& file, std::string_view architecture)
      : metadata_(file.metadata()), architecture_(architecture) {}

  // "ARCHITECTURE.NAME", as the file has it.
  std::string full(std::string_view name) const {
    return fmt::format("{}.{}", architecture_, name);
  }
  bool has(std::string_view name) const { return metadata_.has(full(name)); }
  // The value, or `absent`. Error(damaged) that names the key for one of another type.
  double number(std::string_view name, double absent) const {
    return has(name) ? metadata_.number(full(name)) : absent;
  }
  int64_t integer(std::string_view name, int64_t absent) const {
    return has(name) ? metadata_.integer(full(name)) : absent;
  }
  const GgufMetadata& metadata() const { return metadata_; }

 private:
  const GgufMetadata& metadata_;
  std::string_view architecture_;
};

}  // namespace osp
