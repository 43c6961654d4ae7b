// Structure-aware mutation of safetensors files: the header changes as a tree, and mostly its
// length and the tensors' offsets are then made to fit again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "fuzz/json_mutator.h"
#include "osp/formats/safetensors.h"

namespace osp::fuzz {

inline constexpr const char* kSafetensorsNames[] = {
    "dtype", "shape",   "data_offsets", "__metadata__", "format",     "BOOL", "U8",
    "I8",    "F8_E4M3", "F8_E5M2",      "F8_E8M0",      "I16",        "U16",  "F16",
    "BF16",  "I32",     "U32",          "F32",          "I64",        "U64",  "F64",
    "C64",   "F4",      "F6_E2M3",      "F6_E3M2",      "F8_E4M3FNUZ"};

class SafetensorsMutator {
 public:
  explicit SafetensorsMutator(Dice& dice) : dice_(dice) {}

  // "" where the header is no JSON object.
  std::string mutated(std::string_view file) {
    uint64_t length = 0;
    if (file.size() < sizeof(length)) return "";
    std::memcpy(&length, file.data(), sizeof(length));
    file.remove_prefix(sizeof(length));
    length = std::min<uint64_t>(length, file.size());
    Tree header = json_tree(file.substr(0, length));
    if (!header.is_object()) return "";
    std::string data(file.substr(length));

    if (dice_.one_in(4)) {
      data = changed_bytes(data, dice_);
    } else {
      change(header);
    }
    if (!dice_.one_in(8)) {
      mend(header);
      lay_out(header, data);
    }
    std::string text = json_text_of(header);
    text.resize((text.size() + 7) / 8 * 8, ' ');
    length = dice_.one_in(16) ? some_number(dice_) : text.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text + data;
  }

 private:
  static constexpr uint64_t kMostBytes = 4096;

  void change(Tree& header) {
    Tree* const tensor =
        header.empty() ? nullptr : &std::next(header.begin(), below(header.size())).value();
    if (tensor == nullptr || dice_.one_in(4)) {
      header[name()] = {{"dtype", dtype()}, {"shape", shape()}, {"data_offsets", {0, 0}}};
    } else if (!tensor->contains("shape") || dice_.one_in(3)) {
      JsonMutator(kSafetensorsNames, dice_).mutate(header);
    } else if (dice_.one_in(3)) {
      (*tensor)["shape"] = shape();
    } else if (dice_.one_in(2)) {
      (*tensor)["dtype"] = dtype();
    } else {
      const Tree moved = *tensor;
      if (dice_.one_in(2)) header.erase(std::next(header.begin(), below(header.size())));
      header[name()] = moved;
    }
  }

  // Leaves out what is no tensor of a small size.
  static void mend(Tree& header) {
    Tree kept = Tree::object();
    for (auto& [key, tensor] : header.items()) {
      if (key == "__metadata__" ? tensor.is_object() : bytes_of(tensor).has_value()) {
        kept[key] = tensor;
      }
    }
    header = kept;
  }

  // Gives each tensor the place behind the one before it, and the data their size.
  void lay_out(Tree& header, std::string& data) const {
    uint64_t end = 0;
    for (auto& [key, tensor] : header.items()) {
      const std::optional<uint64_t> bytes = bytes_of(tensor);
      if (!bytes || end + *bytes > kMostBytes) continue;
      tensor["data_offsets"] = {end, end + *bytes};
      end += *bytes;
    }
    data.resize(end, '\x3c');
  }

  static std::optional<uint64_t> bytes_of(const Tree& tensor) {
    if (!tensor.is_object() || !tensor.contains("dtype") || !tensor.contains("shape")) return {};
    const Tree& dtype = tensor["dtype"];
    if (!dtype.is_string() || !tensor["shape"].is_array()) return {};
    auto bits = static_cast<uint64_t>(safetensors_dtype_bits(dtype.get<std::string>()));
    const bool known = bits > 0;
    for (const Tree& dimension : tensor["shape"]) {
      if (!dimension.is_number_unsigned()) return {};
      const auto count = dimension.get<uint64_t>();
      if (count > 8 * kMostBytes || bits * count > 8 * kMostBytes) return {};
      bits *= count;
    }
    if (!known || bits % 8 != 0) return {};
    return bits / 8;
  }

  std::ptrdiff_t below(size_t bound) { return static_cast<std::ptrdiff_t>(dice_.below(bound)); }
  std::string name() { return dice_.one_in(2) ? some_text(dice_) : changed_bytes("w", dice_); }
  std::string dtype() { return dice_.one_of(kSafetensorsNames); }
  Tree shape() {
    Tree dimensions = Tree::array();
    for (size_t rank = dice_.below(4); rank > 0; --rank) {
      dimensions.push_back(dice_.one_in(16) ? some_number(dice_) : dice_.below(9));
    }
    return dimensions;
  }

  Dice& dice_;
};

inline std::string mutated_safetensors(std::string_view file, Dice& dice) {
  return SafetensorsMutator(dice).mutated(file);
}

}  // namespace osp::fuzz
