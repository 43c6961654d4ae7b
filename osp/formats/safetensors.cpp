// The safetensors layout: 8 bytes little-endian header length N, N bytes of JSON, then the data.
// The JSON maps each tensor's name to {"dtype", "shape", "data_offsets": [begin, end]}, offsets
// counted from the start of the data, and "__metadata__" to an object of strings. docs/formats.md
// lists the rules: those of the reference package (0.8.0), and the differences from it.
#include "osp/formats/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/base/json_text.h"
#include "osp/formats/safetensors_layout.h"

namespace osp {
namespace {

static_assert(std::endian::native == std::endian::little, "data is used in place");

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference's limit
constexpr int kMaxJsonDepth = 127;                 // the limit of the reference's JSON reader
constexpr char kMetadataName[] = "__metadata__";

struct DtypeBits {
  std::string_view name;
  int bits;
};

constexpr std::array<DtypeBits, 22> kDtypes = {{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};

// Bytes of a tensor, or nothing if the product overflows 64 bits (taken in the shape's order, so a
// zero only saves what follows it) or the elements do not fill whole bytes.
std::optional<uint64_t> num_bytes(const std::vector<int64_t>& shape, uint64_t element_bits) {
  uint64_t count = 1;
  for (const int64_t dimension : shape) {
    if (__builtin_mul_overflow(count, static_cast<uint64_t>(dimension), &count)) return {};
  }
  uint64_t bits = 0;
  if (__builtin_mul_overflow(count, element_bits, &bits) || bits % 8 != 0) return {};
  return bits / 8;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  constexpr size_t kMaxShown = 8;
  const auto end = shape.begin() + static_cast<std::ptrdiff_t>(std::min(shape.size(), kMaxShown));
  return fmt::format("[{}{}]", fmt::join(shape.begin(), end, ", "),
                     shape.size() > kMaxShown ? ", …" : "");
}

// A name from the file as it may stand in a message: one line, bounded length.
std::string name_text(const std::string& name) {
  constexpr size_t kMaxShown = 200;
  std::string text = Json(name).dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kMaxShown) text = text.substr(0, kMaxShown) + "…";
  return text;
}

// One tensor's place in the data.
struct Placement {
  uint64_t begin;
  uint64_t end;
  const std::string* name;
};

// Reads the members of the header object; every rule that concerns one tensor alone is here.
class HeaderReader {
 public:
  HeaderReader(const std::string& where, std::span<const std::byte> data)
      : where_(where), data_(data) {}

  TensorView tensor(const std::string& name, const Json& fields, Placement& placement) const {
    if (!fields.is_object()) refuse(name, "its description is not an object");
    TensorView view;
    const Json& dtype = field(name, fields, "dtype");
    if (!dtype.is_string()) refuse(name, "dtype is not a string");
    view.dtype = dtype.get<std::string>();
    const auto bits = static_cast<uint64_t>(safetensors_dtype_bits(view.dtype));
    if (bits == 0) refuse(name, fmt::format("unknown dtype {}", name_text(view.dtype)));

    const Json& shape = field(name, fields, "shape");
    if (!shape.is_array()) refuse(name, "shape is not an array");
    for (const Json& dimension : shape) {
      const uint64_t value = natural(name, dimension, "dimension");
      if (value > INT64_MAX) refuse(name, fmt::format("dimension {} is too large", value));
      view.shape.push_back(static_cast<int64_t>(value));
    }

    const Json& offsets = field(name, fields, "data_offsets");
    if (!offsets.is_array() || offsets.size() != 2)
      refuse(name, "data_offsets is not [begin, end]");
    placement.begin = natural(name, offsets[0], "offset");
    placement.end = natural(name, offsets[1], "offset");
    if (placement.end < placement.begin || placement.end > data_.size()) {
      refuse(name, fmt::format("offsets [{}, {}] are not a range within {} bytes of data",
                               placement.begin, placement.end, data_.size()));
    }
    const std::optional<uint64_t> expected = num_bytes(view.shape, bits);
    if (!expected) {
      refuse(name, fmt::format("shape {} of {} has no size in whole bytes within 64 bits",
                               shape_text(view.shape), view.dtype));
    }
    if (*expected != placement.end - placement.begin) {
      refuse(name, fmt::format("offsets span {} bytes, but shape {} of {} takes {}",
                               placement.end - placement.begin, shape_text(view.shape), view.dtype,
                               *expected));
    }
    view.data = data_.subspan(placement.begin, *expected);
    return view;
  }

  std::map<std::string, std::string> metadata(const Json& object) const {
    std::map<std::string, std::string> result;
    if (object.is_null()) return result;
    if (!object.is_object()) refuse(kMetadataName, "is not an object of strings");
    for (const auto& [key, value] : object.items()) {
      if (!value.is_string()) {
        refuse(kMetadataName, fmt::format("the value of {} is not a string", name_text(key)));
      }
      result.emplace(key, value.get<std::string>());
    }
    return result;
  }

 private:
  [[noreturn]] void refuse(const std::string& name, const std::string& reason) const {
    fail(ErrorCode::damaged, "{}: safetensors header: {}: {}", where_, name_text(name), reason);
  }
  const Json& field(const std::string& name, const Json& fields, const char* key) const {
    const auto found = fields.find(key);
    if (found == fields.end()) refuse(name, fmt::format("{} is missing", key));
    return *found;
  }
  // Only digits make an unsigned number: -0, 4.0, 4e0 and 2^64 do not.
  uint64_t natural(const std::string& name, const Json& value, const char* what) const {
    if (!value.is_number_unsigned()) {
      refuse(name, fmt::format("{} is not an integer in [0, 2^64)", what));
    }
    return value.get<uint64_t>();
  }

  const std::string& where_;
  std::span<const std::byte> data_;
};

// Sorted by begin, the tensors must follow one another from 0 to the end of the data.
void check_tiling(std::vector<Placement>& placements, uint64_t data_bytes,
                  const std::string& where) {
  std::sort(placements.begin(), placements.end(), [](const Placement& a, const Placement& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t end = 0;
  for (const Placement& placement : placements) {
    if (placement.begin != end) {
      fail(ErrorCode::damaged,
           "{}: safetensors header: {} begins at byte {} of the data, {} byte {}", where,
           name_text(*placement.name), placement.begin,
           placement.begin < end ? "inside the tensor that ends at" : "leaving a hole from", end);
    }
    end = placement.end;
  }
  if (end != data_bytes) {
    fail(ErrorCode::damaged, "{}: {} bytes of data belong to no tensor (from byte {} of {})", where,
         data_bytes - end, end, data_bytes);
  }
}

// The header's text; checks the length field.
std::string_view header_text(std::span<const std::byte> bytes, const std::string& where) {
  if (bytes.size() < kLengthBytes) {
    fail(ErrorCode::damaged, "{}: {} bytes are too few for a safetensors file (8 or more)", where,
         bytes.size());
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (length > kMaxHeaderBytes) {
    fail(ErrorCode::damaged, "{}: safetensors header of {} bytes, the limit is {}", where, length,
         kMaxHeaderBytes);
  }
  if (length > bytes.size() - kLengthBytes) {
    fail(ErrorCode::damaged,
         "{}: safetensors header of {} bytes, but only {} follow (truncated file?)", where, length,
         bytes.size() - kLengthBytes);
  }
  return {reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, static_cast<size_t>(length)};
}

// The header with the data's offsets, padded so that the data begins at a multiple of `alignment`.
std::string encode_header(const std::vector<TensorEntry>& tensors,
                          const std::map<std::string, std::string>& metadata, size_t alignment) {
  std::string header = "{";
  if (!metadata.empty()) {
    header +=
        Json(kMetadataName).dump() + ":" + json_text(Json(metadata)) + (tensors.empty() ? "" : ",");
  }
  std::set<std::string_view> names = {kMetadataName};
  uint64_t offset = 0;
  for (const TensorEntry& tensor : tensors) {
    OSP_CHECK(names.insert(tensor.name).second, "tensor name \"{}\" is taken", tensor.name);
    const auto bits = static_cast<uint64_t>(safetensors_dtype_bits(tensor.dtype));
    OSP_CHECK(bits > 0, "tensor \"{}\": unknown dtype {}", tensor.name, tensor.dtype);
    const std::optional<uint64_t> size = num_bytes(tensor.shape, bits);
    OSP_CHECK(size, "tensor \"{}\": shape {} of {} has no size in whole bytes", tensor.name,
              shape_text(tensor.shape), tensor.dtype);
    Json fields = Json::object();
    fields["dtype"] = tensor.dtype;
    fields["shape"] = tensor.shape;
    fields["data_offsets"] = {offset, offset + *size};
    header += (names.size() == 2 ? "" : ",") + Json(tensor.name).dump() + ":" + fields.dump();
    offset += *size;
  }
  header += "}";
  const size_t begin = (kLengthBytes + header.size() + alignment - 1) / alignment * alignment;
  header.resize(begin - kLengthBytes, ' ');
  return header;
}

}  // namespace

int64_t safetensors_dtype_bits(const std::string& dtype) {
  for (const DtypeBits& known : kDtypes) {
    if (known.name == dtype) return known.bits;
  }
  return 0;
}

void parse_safetensors(std::span<const std::byte> bytes, const std::string& where,
                       std::map<std::string, TensorView>& tensors,
                       std::map<std::string, std::string>& metadata) {
  const std::string_view text = header_text(bytes, where);
  const Json header = parse_json(text, where + ": safetensors header", kMaxJsonDepth);
  if (!header.is_object()) {
    fail(ErrorCode::damaged, "{}: the safetensors header is {}, expected an object", where,
         header.type_name());
  }
  const auto data = bytes.subspan(kLengthBytes + text.size());
  const HeaderReader reader(where, data);
  tensors.clear();
  metadata.clear();
  std::vector<Placement> placements;
  for (const auto& [name, value] : header.items()) {
    if (name == kMetadataName) {
      metadata = reader.metadata(value);
      continue;
    }
    Placement placement{};
    const auto [entry, is_new] = tensors.emplace(name, reader.tensor(name, value, placement));
    OSP_CHECK(is_new, "parse_json let a duplicate name pass");
    placement.name = &entry->first;
    placements.push_back(placement);
  }
  check_tiling(placements, data.size(), where);
}

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  SafetensorsFile result{MappedFile(path)};
  parse_safetensors(result.file_.bytes(), path, result.tensors_, result.metadata_);
  return result;
}

const TensorView& SafetensorsFile::at(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    fail(ErrorCode::damaged, "{}: there is no tensor {} among its {}", file_.path(),
         name_text(name), tensors_.size());
  }
  return found->second;
}

SafetensorsLayout safetensors_layout(const std::string& path,
                                     const std::vector<TensorEntry>& tensors,
                                     const std::map<std::string, std::string>& metadata,
                                     size_t alignment) {
  const std::string header = encode_header(tensors, metadata, alignment);
  if (header.size() > kMaxHeaderBytes) {
    fail(ErrorCode::unsupported, "{}: {} tensors need a header of {} bytes, the limit is {}", path,
         tensors.size(), header.size(), kMaxHeaderBytes);
  }
  const uint64_t length = header.size();
  SafetensorsLayout layout;
  layout.head.assign(reinterpret_cast<const char*>(&length), sizeof(length));
  layout.head += header;
  layout.file_bytes = layout.head.size();
  for (const TensorEntry& tensor : tensors) {
    layout.offsets.push_back(layout.file_bytes);
    const auto bits = static_cast<uint64_t>(safetensors_dtype_bits(tensor.dtype));
    layout.file_bytes += *num_bytes(tensor.shape, bits);
  }
  return layout;
}

void write_safetensors(const std::string& path, const std::vector<TensorEntry>& tensors,
                       const std::map<std::string, std::string>& metadata, size_t alignment) {
  const SafetensorsLayout layout = safetensors_layout(path, tensors, metadata, alignment);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorEntry& tensor = tensors[i];
    const uint64_t end = i + 1 < tensors.size() ? layout.offsets[i + 1] : layout.file_bytes;
    OSP_CHECK(end - layout.offsets[i] == tensor.data.size(),
              "tensor \"{}\": shape {} of {} does not take {} bytes", tensor.name,
              shape_text(tensor.shape), tensor.dtype, tensor.data.size());
  }
  FileWriter file(path);
  file.write(layout.head.data(), layout.head.size());
  for (const TensorEntry& tensor : tensors) file.write(tensor.data.data(), tensor.data.size());
  file.close();
}

}  // namespace osp
