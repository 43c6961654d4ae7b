// A record is: length (8 bytes), masked CRC of those, the event, its masked CRC, all little-endian.
// The event is a protocol buffer; the few messages needed are encoded here by hand. Field numbers
// are those of TensorFlow's event.proto, summary.proto, tensor.proto and tensor_shape.proto.
#include "osp/formats/tensorboard.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>
#include <filesystem>

#include "osp/base/error.h"

namespace osp {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are copied as they lie");

constexpr uint32_t kCastagnoliReversed = 0x82F63B78;
constexpr uint32_t kMaskDelta = 0xA282EAD8;

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) * kCastagnoliReversed);
    table[byte] = crc;
  }
  return table;
}

// Protocol buffer wire types.
enum class Wire : uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

template <class T>
std::string raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

std::string key(uint32_t field, Wire wire) {
  return varint(field << 3 | static_cast<uint32_t>(wire));
}

std::string integer_field(uint32_t field, int64_t value) {
  return key(field, Wire::varint) + varint(static_cast<uint64_t>(value));
}

std::string double_field(uint32_t field, double value) {
  return key(field, Wire::fixed64) + raw(value);
}

std::string float_field(uint32_t field, float value) {
  return key(field, Wire::fixed32) + raw(value);
}

// A string or an embedded message.
std::string bytes_field(uint32_t field, std::string_view value) {
  return key(field, Wire::bytes) + varint(value.size()) + std::string(value);
}

// Event: wall_time = 1, step = 2, then one of file_version = 3, summary = 5, session_log = 7.
std::string event(double wall_time_s, int64_t step, uint32_t field, std::string_view content) {
  return double_field(1, wall_time_s) + integer_field(2, step) + bytes_field(field, content);
}

constexpr uint32_t kFileVersion = 3;
constexpr uint32_t kSummary = 5;
constexpr uint32_t kSessionLog = 7;

constexpr std::string_view kFilePrefix = "events.out.tfevents.";

// The largest <seconds> in the names of the folder's event files, -1 without any.
int64_t newest_seconds(const std::string& folder) {
  int64_t newest = -1;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(kFilePrefix)) continue;
    int64_t seconds = 0;
    std::from_chars(name.data() + kFilePrefix.size(), name.data() + name.size(), seconds);
    newest = std::max(newest, seconds);
  }
  if (error) fail(ErrorCode::io, "{}: cannot list: {}", folder, error.message());
  return newest;
}

// The name of a file that is read after every other one in the folder.
std::string last_path(const std::string& folder, double start_time_s) {
  const int64_t seconds = std::max(static_cast<int64_t>(start_time_s), newest_seconds(folder) + 1);
  return fmt::format("{}/{}{:010}.osp.{}.0", folder, kFilePrefix, seconds, ::getpid());
}

}  // namespace

bool has_event_files(const std::string& folder) { return newest_seconds(folder) >= 0; }

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = crc_table();
  uint32_t crc = ~uint32_t{0};
  for (const unsigned char byte : bytes) crc = (crc >> 8) ^ kTable[(crc ^ byte) & 0xFF];
  return ~crc;
}

uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + kMaskDelta; }

EventWriter::EventWriter(const std::string& folder, double start_time_s,
                         std::optional<int64_t> resumed_at_step)
    : path_(last_path(folder, start_time_s)), file_(path_) {
  write_record(event(start_time_s, 0, kFileVersion, "brain.Event:2"));
  if (resumed_at_step) {
    // SessionLog: status = 1, START = 1.
    write_record(event(start_time_s, *resumed_at_step, kSessionLog, integer_field(1, 1)));
  }
}

void EventWriter::scalar(std::string_view tag, int64_t step, double value, double wall_time_s) {
  // Summary.value = 1; Value: tag = 1, simple_value = 2.
  const std::string point = bytes_field(1, tag) + float_field(2, static_cast<float>(value));
  write_record(event(wall_time_s, step, kSummary, bytes_field(1, point)));
}

void EventWriter::text(std::string_view tag, int64_t step, std::string_view text,
                       double wall_time_s) {
  // TensorProto: dtype = 1 (DT_STRING = 7), tensor_shape = 2 (dim = 2 (size = 1)), string_val = 8.
  const std::string tensor = integer_field(1, 7) +
                             bytes_field(2, bytes_field(2, integer_field(1, 1))) +
                             bytes_field(8, text);
  // SummaryMetadata: plugin_data = 1 (plugin_name = 1), data_class = 4 (DATA_CLASS_TENSOR = 2).
  const std::string metadata = bytes_field(1, bytes_field(1, "text")) + integer_field(4, 2);
  // Value: tag = 1, tensor = 8, metadata = 9.
  const std::string value = bytes_field(1, tag) + bytes_field(8, tensor) + bytes_field(9, metadata);
  write_record(event(wall_time_s, step, kSummary, bytes_field(1, value)));
}

void EventWriter::flush() { fsync_file(path_); }

void EventWriter::write_record(std::string_view event) {
  const std::string length = raw(static_cast<uint64_t>(event.size()));
  std::string record = length + raw(masked_crc32c(length));
  record += event;
  record += raw(masked_crc32c(event));
  file_.write(record.data(), record.size());
}

}  // namespace osp
