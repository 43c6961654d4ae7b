// Structure-aware mutation of GGUF files: a typed entry of the metadata or a tensor changes, and
// the file is written again with counts, lengths and offsets that fit, but for a few of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/mutator.h"
#include "osp/formats/gguf.h"

namespace osp::fuzz {

// One entry: a value of the type, or an array of them; texts without their length.
struct GgufEntryParts {
  std::string key;
  uint32_t type = 0;
  bool is_array = false;
  std::vector<std::string> elements = {};
};

struct GgufTensorParts {
  std::string name;
  std::vector<uint64_t> dimensions = {};
  uint32_t type = 0;
  std::string data = {};
};

struct GgufParts {
  uint32_t version = 3;
  std::vector<GgufEntryParts> entries;
  std::vector<GgufTensorParts> tensors;
};

// Bytes of an element; 0 for text, whose size varies.
inline size_t gguf_element_bytes(uint32_t type) {
  constexpr uint8_t kBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < std::size(kBytes) ? kBytes[type] : 0;
}
inline constexpr uint32_t kGgufText = 8, kGgufArray = 9;

// Reads what it can of a file, whether it is whole or not.
class GgufPartsReader {
 public:
  explicit GgufPartsReader(std::string_view file) : left_(file) {}

  GgufParts read() {
    GgufParts parts;
    text(4);
    parts.version = number<uint32_t>();
    const auto tensors = number<uint64_t>(), entries = number<uint64_t>();
    for (uint64_t i = 0; i < entries && !ended_; ++i) add(parts.entries, entry());
    std::vector<uint64_t> offsets;
    for (uint64_t i = 0; i < tensors && !ended_; ++i) add(parts.tensors, tensor(offsets));
    text(std::min<size_t>(left_.size(), 32 - (whole_ - left_.size()) % 32));
    for (size_t i = 0; i < parts.tensors.size(); ++i) {
      parts.tensors[i].data = left_.substr(std::min<uint64_t>(offsets[i], left_.size()), 512);
    }
    return parts;
  }

 private:
  template <class Part>
  void add(std::vector<Part>& parts, Part part) {
    if (!ended_) parts.push_back(std::move(part));
  }
  std::string text(uint64_t size) {
    ended_ = ended_ || size > left_.size();
    if (ended_) return "";
    const std::string taken(left_.substr(0, size));
    left_.remove_prefix(size);
    return taken;
  }
  template <class Number>
  Number number() {
    Number value = 0;
    const std::string bytes = text(sizeof(value));
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  GgufEntryParts entry() {
    GgufEntryParts entry{text(number<uint64_t>()), number<uint32_t>()};
    entry.is_array = entry.type == kGgufArray;
    if (entry.is_array) entry.type = number<uint32_t>();
    for (uint64_t i = entry.is_array ? number<uint64_t>() : 1; i > 0 && !ended_; --i) {
      const size_t size = gguf_element_bytes(entry.type);
      add(entry.elements, text(size > 0 ? size : number<uint64_t>()));
    }
    return entry;
  }
  GgufTensorParts tensor(std::vector<uint64_t>& offsets) {
    GgufTensorParts tensor{text(number<uint64_t>())};
    for (auto rank = number<uint32_t>(); rank > 0 && !ended_; --rank) {
      add(tensor.dimensions, number<uint64_t>());
    }
    tensor.type = number<uint32_t>();
    offsets.push_back(number<uint64_t>());
    return tensor;
  }

  std::string_view left_;
  size_t whole_ = left_.size();
  bool ended_ = false;
};

class GgufMutator {
 public:
  explicit GgufMutator(Dice& dice) : dice_(dice) {}

  void change(GgufParts& parts) {
    for (size_t times = 1 + dice_.below(3); times > 0; --times) {
      if (dice_.one_in(2)) {
        change_some(parts.entries, [&](GgufEntryParts& entry) { change_entry(entry); });
      } else {
        change_some(parts.tensors, [&](GgufTensorParts& tensor) { change_tensor(tensor); });
      }
    }
    if (!dice_.one_in(4)) mend(parts);
    if (dice_.one_in(16)) parts.version = static_cast<uint32_t>(dice_.below(5));
  }

  // The file; one in eight with a number of its framing or its end wrong.
  std::string written(const GgufParts& parts) {
    wrong_ = dice_.one_in(8) ? 1 + dice_.below(20) : 0;
    file_ = "GGUF";
    put(parts.version);
    framing(parts.tensors.size());
    framing(parts.entries.size());
    uint64_t alignment = 32;
    for (const GgufEntryParts& entry : parts.entries) put_entry(entry, alignment);
    std::string data;
    for (const GgufTensorParts& tensor : parts.tensors) {
      put_text(tensor.name);
      put(static_cast<uint32_t>(tensor.dimensions.size()));
      for (const uint64_t dimension : tensor.dimensions) put(dimension);
      put(tensor.type);
      framing(data.size());
      std::string own = tensor.data;
      own.resize(bytes_of(tensor), '\x2a');
      data += own;
      data.resize((data.size() + alignment - 1) / alignment * alignment);
    }
    file_.resize((file_.size() + alignment - 1) / alignment * alignment);
    file_ += data;
    if (wrong_ > 0) file_.resize(file_.size() - std::min<size_t>(file_.size(), dice_.below(40)));
    return file_;
  }

 private:
  static constexpr uint64_t kMostBytes = 2048;

  // Leaves out what no file may have.
  static void mend(GgufParts& parts) {
    std::set<std::string> names;
    std::erase_if(parts.entries, [&](const GgufEntryParts& entry) {
      const bool aligned = entry.key != "general.alignment" || (entry.type == 4 && !entry.is_array);
      const bool known = entry.type == kGgufText || gguf_element_bytes(entry.type) > 0;
      return entry.key.empty() || !known || !aligned || !names.insert(entry.key).second;
    });
    names.clear();
    std::erase_if(parts.tensors, [&](const GgufTensorParts& tensor) {
      const GgufTypeInfo* const info = gguf_type_info(tensor.type);
      const uint64_t row = tensor.dimensions.empty() ? 1 : tensor.dimensions[0];
      return info == nullptr || row % info->block_size != 0 || tensor.dimensions.size() > 4 ||
             bytes_of(tensor) == kMostBytes || !names.insert(tensor.name).second;
    });
  }

  // Changes, doubles, removes or adds a part.
  template <class Part, class Change>
  void change_some(std::vector<Part>& parts, const Change& change) {
    const size_t choice = parts.empty() ? 0 : dice_.below(6);
    if (choice == 0) {
      parts.emplace_back();
      for (int i = 0; i < 4; ++i) change(parts.back());
    } else if (choice == 1) {
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(dice_.below(parts.size())));
    } else if (choice == 2) {
      parts.push_back(dice_.one_of(parts));
      if (!dice_.one_in(8)) change_name(parts.back());
    } else {
      change(dice_.one_of(parts));
    }
  }

  void change_name(GgufEntryParts& entry) {
    static const std::string kKeys[] = {"general.alignment", "general.architecture", "split.no",
                                        "split.count",       "split.tensors.count",  "x"};
    entry.key = dice_.one_in(2) ? dice_.one_of(kKeys) : changed_bytes(entry.key, dice_);
  }
  void change_name(GgufTensorParts& tensor) { tensor.name = changed_bytes(tensor.name, dice_); }

  void change_entry(GgufEntryParts& entry) {
    switch (dice_.below(5)) {
      case 0:
        return change_name(entry);
      case 1:
        entry.type = static_cast<uint32_t>(dice_.below(dice_.one_in(8) ? 15 : 13));
        break;
      case 2:
        entry.is_array = dice_.one_in(2);
        break;
      case 3:
        if (entry.is_array) entry.elements.resize(dice_.below(9));
        break;
      default:
        if (entry.elements.empty()) break;
        std::string& element = dice_.one_of(entry.elements);
        const uint64_t number = some_number(dice_);
        element = gguf_element_bytes(entry.type) == 0
                      ? changed_bytes(element, dice_)
                      : std::string(reinterpret_cast<const char*>(&number), sizeof(number));
    }
    if (!entry.is_array) entry.elements.resize(1);
    for (std::string& element : entry.elements) {
      if (const size_t size = gguf_element_bytes(entry.type)) element.resize(size);
      if (entry.type == static_cast<uint32_t>(GgufType::boolean)) element[0] &= 1;
    }
  }

  void change_tensor(GgufTensorParts& tensor) {
    static constexpr uint64_t kSizes[] = {0, 1, 2, 3, 32, 64, 256, 512};
    switch (dice_.below(6)) {
      case 0:
        return change_name(tensor);
      case 1:
        do {
          tensor.type = static_cast<uint32_t>(dice_.below(41));
        } while (gguf_type_info(tensor.type) == nullptr && !dice_.one_in(16));
        break;
      case 2:
        tensor.dimensions.resize(dice_.below(dice_.one_in(8) ? 6 : 5), 1);
        break;
      case 3:
        tensor.data.resize(bytes_of(tensor));
        tensor.data = changed_bytes(tensor.data, dice_);
        return;
      default:
        if (tensor.dimensions.empty()) break;
        dice_.one_of(tensor.dimensions) =
            dice_.one_in(16) ? some_number(dice_) : dice_.one_of(kSizes);
    }
    // Rows of whole blocks, mostly.
    const GgufTypeInfo* const info = gguf_type_info(tensor.type);
    if (info == nullptr || dice_.one_in(8) || info->block_size == 1) return;
    if (tensor.dimensions.empty()) tensor.dimensions.resize(1);
    if (tensor.dimensions[0] % info->block_size != 0) tensor.dimensions[0] = info->block_size;
  }

  // As many as fit into a small file.
  static uint64_t bytes_of(const GgufTensorParts& tensor) {
    const GgufTypeInfo* const info = gguf_type_info(tensor.type);
    if (info == nullptr) return 0;
    uint64_t count = 1;
    for (const uint64_t dimension : tensor.dimensions) {
      if (dimension > kMostBytes * 8 || (count *= dimension) > kMostBytes * 8) return 0;
    }
    return std::min(count / info->block_size * info->block_bytes, kMostBytes);
  }

  void put_entry(const GgufEntryParts& entry, uint64_t& alignment) {
    put_text(entry.key);
    put(entry.is_array ? kGgufArray : entry.type);
    if (entry.is_array) put(entry.type);
    if (entry.is_array) framing(entry.elements.size());
    for (const std::string& element : entry.elements) {
      if (gguf_element_bytes(entry.type) == 0) framing(element.size());
      file_ += element;
    }
    uint32_t value = 0;
    if (entry.key != "general.alignment" || entry.elements.empty()) return;
    std::memcpy(&value, entry.elements[0].data(), std::min<size_t>(4, entry.elements[0].size()));
    if (value > 0 && value <= 256) alignment = value;
  }

  template <class Number>
  void put(Number value) {
    file_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void put_text(const std::string& text) {
    framing(text.size());
    file_ += text;
  }
  // A count, a length or an offset; the one that is to be wrong is.
  void framing(uint64_t value) {
    if (wrong_ > 0 && --wrong_ == 0) value = dice_.one_in(2) ? some_number(dice_) : value + 1;
    put(value);
  }

  Dice& dice_;
  std::string file_;
  size_t wrong_ = 0;
};

inline std::string mutated_gguf(std::string_view file, Dice& dice) {
  GgufParts parts = GgufPartsReader(file).read();
  GgufMutator mutator(dice);
  mutator.change(parts);
  return mutator.written(parts);
}

}  // namespace osp::fuzz
