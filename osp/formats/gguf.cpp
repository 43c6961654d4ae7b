#include "osp/formats/gguf.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "osp/base/error.h"
#include "osp/base/printable.h"
#include "osp/formats/gguf_split.h"
#include "osp/formats/gguf_utf8.h"

namespace osp {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint64_t kMaxRank = 4;
constexpr uint64_t kMaxNameBytes = 64;
constexpr uint64_t kMaxKeyBytes = 65535;
// The least that an entry and a tensor take in a file.
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 4 + 8;
constexpr std::string_view kAlignmentKey = "general.alignment";

std::string quoted(std::string_view text) { return '"' + printable(text) + '"'; }

// Bytes of one element; 0 for strings and arrays, whose size varies, and for unknown types.
uint64_t element_bytes(uint32_t type) {
  constexpr std::array<uint8_t, 13> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return type < kBytes.size() ? kBytes[type] : 0;
}

const char* type_name(GgufType type) {
  constexpr std::array<const char*, 13> kNames = {"u8",  "i8",  "u16",  "i16",    "u32",
                                                  "i32", "f32", "bool", "string", "array",
                                                  "u64", "i64", "f64"};
  return kNames[static_cast<size_t>(type)];
}

// Reads a file from the front and blames the place, in words, for what is wrong.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, const std::string& where)
      : bytes_(bytes), where_(where) {}

  uint64_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }

  std::span<const std::byte> take(uint64_t count, const std::string& what) {
    if (count > left()) {
      damaged(what,
              fmt::format("takes {} bytes, but only {} are left (truncated file?)", count, left()));
    }
    const auto part = bytes_.subspan(at_, count);
    at_ += count;
    return part;
  }
  template <class Integer>
  Integer take_integer(const std::string& what) {
    Integer value;
    std::memcpy(&value, take(sizeof(value), what).data(), sizeof(value));
    return value;
  }
  // A string of at most `max_bytes`, checked to be UTF-8.
  std::string_view take_string(const std::string& what, uint64_t max_bytes = UINT64_MAX) {
    const auto length = take_integer<uint64_t>("the length of " + what);
    if (length > max_bytes) {
      damaged(what, fmt::format("has {} bytes, expected at most {}", length, max_bytes));
    }
    const auto part = take(length, what);
    const std::string_view text(reinterpret_cast<const char*>(part.data()), part.size());
    if (!is_utf8(text)) damaged(what, fmt::format("is not UTF-8: {}", quoted(text)));
    return text;
  }
  // Goes to the next multiple of a power of two, or to the end of the file.
  void align(uint64_t alignment) {
    const uint64_t padding = (alignment - at_ % alignment) % alignment;
    at_ += std::min(padding, left());
  }
  std::span<const std::byte> rest() const { return bytes_.subspan(at_); }

  [[noreturn]] void damaged(const std::string& what, const std::string& reason) const {
    fail(ErrorCode::damaged, "{}: {} {}", where_, what, reason);
  }
  [[noreturn]] void unsupported(const std::string& what, const std::string& reason) const {
    fail(ErrorCode::unsupported, "{}: {} {}", where_, what, reason);
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& where_;
  uint64_t at_ = 0;
};

struct Counts {
  uint64_t tensors;
  uint64_t entries;
};

Counts read_header(Reader& reader, GgufContents& contents) {
  const auto magic = reader.take(kMagic.size(), "the magic number");
  const std::string_view text(reinterpret_cast<const char*>(magic.data()), magic.size());
  if (text != kMagic) {
    reader.damaged("the magic number", fmt::format("is {}, expected \"GGUF\"", quoted(text)));
  }
  contents.version = reader.take_integer<uint32_t>("the version");
  if (const uint32_t swapped = __builtin_bswap32(contents.version); swapped >= 1 && swapped <= 3) {
    reader.unsupported("the file", "is big-endian; osp reads little-endian GGUF files");
  }
  if (contents.version == 0) reader.damaged("the version", "is 0, expected 2 or 3");
  if (contents.version != 2 && contents.version != 3) {
    reader.unsupported("the version",
                       fmt::format("is {}; osp reads versions 2 and 3", contents.version));
  }
  Counts counts{};
  counts.tensors = reader.take_integer<uint64_t>("the number of tensors");
  counts.entries = reader.take_integer<uint64_t>("the number of metadata entries");
  const auto check = [&](const char* what, uint64_t count, uint64_t least) {
    if (count <= reader.left() / least) return;
    reader.damaged(what, fmt::format("is {}, which cannot fit into the {} bytes that follow "
                                     "(truncated file?)",
                                     count, reader.left()));
  };
  check("the number of tensors", counts.tensors, kMinTensorBytes);
  check("the number of metadata entries", counts.entries, kMinEntryBytes);
  return counts;
}

GgufType read_type(Reader& reader, const std::string& what) {
  const auto type = reader.take_integer<uint32_t>("the type of " + what);
  if (type > static_cast<uint32_t>(GgufType::f64)) {
    reader.damaged(what, fmt::format("has the unknown type {}, expected 0 to 12", type));
  }
  return static_cast<GgufType>(type);
}

void check_booleans(Reader& reader, const GgufValue& value, const std::string& what) {
  if (value.type != GgufType::boolean) return;
  for (const std::byte byte : value.bytes) {
    if (std::to_integer<int>(byte) > 1) {
      reader.damaged(what, fmt::format("holds {} as a truth value, expected 0 or 1",
                                       std::to_integer<int>(byte)));
    }
  }
}

GgufValue read_value(Reader& reader, const std::string& what) {
  GgufValue value;
  value.type = read_type(reader, what);
  if (value.type == GgufType::array) {
    value.is_array = true;
    value.type = read_type(reader, "the elements of " + what);
    if (value.type == GgufType::array) {
      reader.unsupported(what, "is an array of arrays, which osp does not read");
    }
    value.count = reader.take_integer<uint64_t>("the length of " + what);
  }
  const uint64_t size = element_bytes(static_cast<uint32_t>(value.type));
  const uint64_t least = size > 0 ? size : sizeof(uint64_t);
  if (value.count > reader.left() / least) {
    reader.damaged(what, fmt::format("has {} elements of {}, but only {} bytes are left "
                                     "(truncated file?)",
                                     value.count, type_name(value.type), reader.left()));
  }
  if (size > 0) {
    value.bytes = reader.take(value.count * size, what);
    check_booleans(reader, value, what);
    return value;
  }
  const auto all = reader.rest();
  const uint64_t begin = reader.at();
  for (uint64_t i = 0; i < value.count; ++i) reader.take_string(what);
  value.bytes = all.first(reader.at() - begin);
  return value;
}

void read_metadata(Reader& reader, uint64_t count, GgufMetadata& metadata) {
  for (uint64_t i = 0; i < count; ++i) {
    const std::string_view key =
        reader.take_string(fmt::format("the key of metadata entry {}", i), kMaxKeyBytes);
    if (key.empty()) reader.damaged(fmt::format("the key of metadata entry {}", i), "is empty");
    const std::string what = "metadata " + quoted(key);
    const GgufValue value = read_value(reader, what);
    if (!metadata.add(std::string(key), value)) reader.damaged(what, "is there twice");
  }
}

uint64_t read_alignment(Reader& reader, const GgufMetadata& metadata) {
  const auto found = metadata.values().find(kAlignmentKey);
  if (found == metadata.values().end()) return 32;
  const GgufValue& value = found->second;
  if (value.is_array || value.type != GgufType::u32) {
    reader.damaged("metadata \"general.alignment\"",
                   fmt::format("is {}{}, expected u32", value.is_array ? "an array of " : "",
                               type_name(value.type)));
  }
  uint32_t alignment;
  std::memcpy(&alignment, value.bytes.data(), sizeof(alignment));
  if (!std::has_single_bit(alignment)) {
    reader.damaged("metadata \"general.alignment\"",
                   fmt::format("is {}, expected a power of two", alignment));
  }
  return alignment;
}

// A tensor's description; `data` has its size only, until all offsets are known.
struct Description {
  std::string_view name;
  GgufTensor tensor;
  uint64_t offset = 0;
  uint64_t num_bytes = 0;
};

std::vector<int64_t> read_shape(Reader& reader, const std::string& what) {
  const auto rank = reader.take_integer<uint32_t>("the rank of " + what);
  if (rank > kMaxRank) {
    reader.damaged(what, fmt::format("has {} dimensions, expected at most {}", rank, kMaxRank));
  }
  std::vector<int64_t> shape(rank);
  for (uint32_t i = 0; i < rank; ++i) {
    const auto dimension = reader.take_integer<uint64_t>("the shape of " + what);
    if (dimension > INT64_MAX) {
      reader.damaged(what, fmt::format("has the dimension {}, expected less than 2^63", dimension));
    }
    shape[rank - 1 - i] = static_cast<int64_t>(dimension);
  }
  return shape;
}

const GgufTypeInfo& read_tensor_type(Reader& reader, const std::string& what) {
  const auto type = reader.take_integer<uint32_t>("the type of " + what);
  if (const GgufTypeInfo* info = gguf_type_info(type)) return *info;
  const std::string_view name = gguf_type_name(type);
  if (name.empty()) {
    reader.damaged(what,
                   fmt::format("has the unknown type {}; osp reads {}", type, gguf_types_read()));
  }
  reader.unsupported(what,
                     fmt::format("has type {} ({}); osp reads {}", name, type, gguf_types_read()));
}

uint64_t tensor_bytes(Reader& reader, const std::vector<int64_t>& shape, const GgufTypeInfo& info,
                      const std::string& what) {
  const auto row = shape.empty() ? 1 : static_cast<uint64_t>(shape.back());
  if (row % info.block_size != 0) {
    reader.damaged(what, fmt::format("has rows of {} values, which are no whole blocks of {} ({})",
                                     row, info.block_size, info.name));
  }
  // Every product is checked, so that a zero does not hide an overflow before it.
  uint64_t count = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (__builtin_mul_overflow(count, static_cast<uint64_t>(shape[i]), &count) ||
        count > INT64_MAX) {
      reader.damaged(what, fmt::format("has the shape [{}], too many values for 63 bits",
                                       fmt::join(shape, ", ")));
    }
  }
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(count / info.block_size, info.block_bytes, &bytes)) {
    reader.damaged(what, fmt::format("has the shape [{}], too many bytes for 64 bits",
                                     fmt::join(shape, ", ")));
  }
  return bytes;
}

Description read_description(Reader& reader, uint64_t index, uint64_t alignment) {
  Description result;
  result.name = reader.take_string(fmt::format("the name of tensor {}", index), kMaxNameBytes);
  const std::string what = "tensor " + quoted(result.name);
  result.tensor.shape = read_shape(reader, what);
  const GgufTypeInfo& info = read_tensor_type(reader, what);
  result.tensor.type = info.type;
  result.num_bytes = tensor_bytes(reader, result.tensor.shape, info, what);
  result.offset = reader.take_integer<uint64_t>("the offset of " + what);
  if (result.offset % alignment != 0) {
    reader.damaged(what, fmt::format("begins at byte {} of the data, expected a multiple of {}",
                                     result.offset, alignment));
  }
  return result;
}

// Sorted by offset, each tensor begins where the one before it ends, but for padding.
void check_layout(Reader& reader, std::vector<Description*> sorted, uint64_t alignment) {
  std::sort(sorted.begin(), sorted.end(), [](const Description* a, const Description* b) {
    return std::pair(a->offset, a->num_bytes) < std::pair(b->offset, b->num_bytes);
  });
  const uint64_t data_bytes = reader.rest().size();
  uint64_t expected = 0;
  for (const Description* tensor : sorted) {
    const std::string what = "tensor " + quoted(tensor->name);
    if (tensor->offset > data_bytes || tensor->num_bytes > data_bytes - tensor->offset) {
      reader.damaged(what, fmt::format("takes {} bytes from byte {} of the data, but there are {} "
                                       "(truncated file?)",
                                       tensor->num_bytes, tensor->offset, data_bytes));
    }
    if (tensor->offset != expected) {
      reader.damaged(
          what, fmt::format("begins at byte {} of the data, {} byte {}", tensor->offset,
                            tensor->offset < expected ? "inside the tensor whose padding ends at"
                                                      : "leaving a hole from",
                            expected));
    }
    // The sum cannot overflow: both are at most the file's size, and alignment is 32 bits.
    expected = (tensor->offset + tensor->num_bytes + alignment - 1) / alignment * alignment;
  }
}

}  // namespace

bool GgufMetadata::add(std::string key, const GgufValue& value) {
  return values_.emplace(std::move(key), value).second;
}

GgufContents parse_gguf(std::span<const std::byte> bytes, const std::string& where) {
  Reader reader(bytes, where);
  GgufContents contents;
  contents.metadata = GgufMetadata(where);
  const Counts counts = read_header(reader, contents);
  read_metadata(reader, counts.entries, contents.metadata);
  contents.alignment = read_alignment(reader, contents.metadata);

  std::vector<Description> descriptions;
  std::vector<Description*> pointers;
  for (uint64_t i = 0; i < counts.tensors; ++i) {
    descriptions.push_back(read_description(reader, i, contents.alignment));
  }
  for (Description& description : descriptions) pointers.push_back(&description);
  reader.align(contents.alignment);
  check_layout(reader, pointers, contents.alignment);
  for (Description& description : descriptions) {
    description.tensor.data = reader.rest().subspan(description.offset, description.num_bytes);
    const auto [place, is_new] =
        contents.tensors.emplace(description.name, std::move(description.tensor));
    if (!is_new)
      reader.damaged("tensor " + quoted(std::string_view(place->first)), "is there twice");
  }
  return contents;
}

bool is_gguf_path(const std::string& path) {
  return path.ends_with(".gguf") && path_exists(path) && !is_directory(path);
}

GgufFile GgufFile::open(const std::string& path) {
  GgufFile result;
  result.files_.emplace_back(path);
  result.contents_ = parse_gguf(result.files_.front().bytes(), path);
  const int64_t count = gguf_split_count(result.contents_.metadata);
  if (count <= 1) return result;
  // The parts of a split file, the first with the metadata of all.
  std::vector<GgufContents> parts;
  result.files_.clear();
  for (const std::string& part : gguf_part_paths(path, count)) {
    if (!path_exists(part)) {
      fail(ErrorCode::damaged, "{}: is missing; {} is one of {} parts, which are read together",
           part, path, count);
    }
    result.files_.emplace_back(part);
    parts.push_back(parse_gguf(result.files_.back().bytes(), part));
  }
  result.contents_ = join_gguf_parts(std::move(parts));
  return result;
}

}  // namespace osp
