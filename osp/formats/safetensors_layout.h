// Where the bytes of a safetensors file stand, for those who write it in parts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "osp/formats/safetensors.h"

namespace osp {

struct SafetensorsLayout {
  std::string head;               // the bytes in front of the data: length and header
  std::vector<uint64_t> offsets;  // in the file, of each tensor's data, in the given order
  uint64_t file_bytes = 0;
};

// The layout of the file that write_safetensors() writes to `path`; `data` of the entries is not
// read. Error(unsupported) for a header above the format's limit.
SafetensorsLayout safetensors_layout(const std::string& path,
                                     const std::vector<TensorEntry>& tensors,
                                     const std::map<std::string, std::string>& metadata = {},
                                     size_t alignment = 8);

}  // namespace osp
