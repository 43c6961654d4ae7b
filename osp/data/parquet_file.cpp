#include "osp/data/parquet_file.h"

#include <arrow/array.h>
#include <arrow/io/file.h>
#include <arrow/type.h>
#include <parquet/exception.h>
#include <parquet/properties.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>
#include <vector>

#include "osp/data/object_store.h"

namespace osp::parquet_file {
namespace {

constexpr int64_t kRowsPerBatch = 256;
constexpr int64_t kColumnBufferBytes = 1 << 20;

using RandomAccessFile = std::shared_ptr<arrow::io::RandomAccessFile>;

RandomAccessFile unpack(const std::string& path, Compression compression) {
  const auto close = [](std::FILE* file) { std::fclose(file); };
  const std::unique_ptr<std::FILE, decltype(close)> file(std::tmpfile(), close);
  const auto fail_io = [&] {
    fail(ErrorCode::io, "{}: cannot unpack into a temporary file: {}", path,
         std::generic_category().message(errno));
  };
  if (!file) fail_io();
  const std::unique_ptr<ByteStream> stream = open_byte_stream(path, compression);
  std::vector<char> buffer(1 << 20);
  while (const size_t count = stream->read(buffer.data(), buffer.size())) {
    if (std::fwrite(buffer.data(), 1, count, file.get()) != count) fail_io();
  }
  if (std::fflush(file.get()) != 0) fail_io();
  const int descriptor = dup(fileno(file.get()));
  if (descriptor < 0) fail_io();
  return value_or_fail(arrow::io::ReadableFile::Open(descriptor), path);
}

RandomAccessFile open_file(const std::string& path, Compression compression) {
  // Its columns are read in small pieces, each of which would be a request to a store.
  if (compression != Compression::none || is_store_uri(path)) return unpack(path, compression);
  auto opened = arrow::io::ReadableFile::Open(path);
  if (!opened.ok()) fail(ErrorCode::io, "{}: {}", path, opened.status().message());
  return std::move(opened).ValueUnsafe();
}

}  // namespace

bool text_at(const arrow::Array& array, int64_t row, std::string_view& text) {
  if (array.IsNull(row)) return false;
  switch (array.type_id()) {
    case arrow::Type::STRING:
    case arrow::Type::BINARY:
      text = static_cast<const arrow::BinaryArray&>(array).GetView(row);
      return true;
    case arrow::Type::LARGE_STRING:
    case arrow::Type::LARGE_BINARY:
      text = static_cast<const arrow::LargeBinaryArray&>(array).GetView(row);
      return true;
    case arrow::Type::STRING_VIEW:
    case arrow::Type::BINARY_VIEW:
      text = static_cast<const arrow::BinaryViewArray&>(array).GetView(row);
      return true;
    default: {
      if (array.type_id() != arrow::Type::DICTIONARY) {
        throw parquet::ParquetException("the column's data is not of the schema's type");
      }
      const auto& dictionary = static_cast<const arrow::DictionaryArray&>(array);
      const int64_t index = dictionary.GetValueIndex(row);
      if (index < 0 || index >= dictionary.dictionary()->length()) {
        throw parquet::ParquetException("dictionary index beyond the dictionary");
      }
      return text_at(*dictionary.dictionary(), index, text);
    }
  }
}

bool is_text(const arrow::DataType& type) {
  if (type.id() == arrow::Type::DICTIONARY) {
    return is_text(*static_cast<const arrow::DictionaryType&>(type).value_type());
  }
  return arrow::is_base_binary_like(type.id()) || type.id() == arrow::Type::STRING_VIEW ||
         type.id() == arrow::Type::BINARY_VIEW;
}

std::unique_ptr<parquet::arrow::FileReader> open(const std::string& path, Compression compression) {
  parquet::ReaderProperties properties;
  properties.enable_buffered_stream();  // else a column of a row group is read as a whole
  properties.set_buffer_size(kColumnBufferBytes);
  parquet::ArrowReaderProperties arrow_properties(/*use_threads=*/false);
  arrow_properties.set_batch_size(kRowsPerBatch);
  arrow_properties.set_pre_buffer(false);
  parquet::arrow::FileReaderBuilder builder;
  check(builder.Open(open_file(path, compression), properties), path);
  std::unique_ptr<parquet::arrow::FileReader> reader;
  check(builder.properties(arrow_properties)->Build(&reader), path);
  return reader;
}

}  // namespace osp::parquet_file
