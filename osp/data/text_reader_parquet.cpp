#include "osp/data/text_reader_parquet.h"

#include <arrow/array.h>
#include <arrow/io/file.h>
#include <arrow/record_batch.h>
#include <arrow/result.h>
#include <arrow/status.h>
#include <arrow/type.h>
#include <parquet/arrow/reader.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>
#include <parquet/properties.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/printable.h"

namespace osp {
namespace {

constexpr int64_t kRowsPerBatch = 256;
constexpr int64_t kColumnBufferBytes = 1 << 20;
constexpr size_t kMessageBytes = 300;  // of what Arrow says

using RandomAccessFile = std::shared_ptr<arrow::io::RandomAccessFile>;

void check(const arrow::Status& status, const std::string& path) {
  if (!status.ok()) {
    fail(ErrorCode::damaged, "{}: {}", path, printable(status.message(), kMessageBytes));
  }
}

// What `call` returns; Arrow's exceptions, of whatever type, mean that the file is damaged.
template <class Call>
auto guarded(const std::string& path, Call call) {
  try {
    return call();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail(ErrorCode::damaged, "{}: {}", path, printable(error.what(), kMessageBytes));
  }
}

template <class Value>
Value value_or_fail(arrow::Result<Value> result, const std::string& path) {
  check(result.status(), path);
  return std::move(result).ValueUnsafe();
}

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
  if (compression != Compression::none) return unpack(path, compression);
  auto opened = arrow::io::ReadableFile::Open(path);
  if (!opened.ok()) fail(ErrorCode::io, "{}: {}", path, opened.status().message());
  return std::move(opened).ValueUnsafe();
}

// The text of row `row` of an array of any text type; false for null.
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

// The leaf column that holds the top-level field `field`.
int find_column(parquet::arrow::FileReader& reader, const std::string& field,
                const std::string& path) {
  std::shared_ptr<arrow::Schema> schema;
  check(reader.GetSchema(&schema), path);
  const int index = schema->GetFieldIndex(field);
  if (index < 0) {
    std::string names;
    for (const auto& column : schema->fields())
      names += (names.empty() ? "" : ", ") + column->name();
    fail(ErrorCode::usage, "{}: no column \"{}\"; it has: {} (choose one with --field)", path,
         field, printable(names, 200));
  }
  if (!is_text(*schema->field(index)->type())) {
    fail(ErrorCode::usage, "{}: column \"{}\" has type {}; expected text (choose one with --field)",
         path, field, printable(schema->field(index)->type()->ToString()));
  }
  const auto* columns = reader.parquet_reader()->metadata()->schema();
  const parquet::schema::Node* root = columns->group_node()->field(index).get();
  for (int leaf = 0; leaf < columns->num_columns(); ++leaf) {
    if (columns->GetColumnRoot(leaf) == root) return leaf;
  }
  fail(ErrorCode::damaged, "{}: column \"{}\" has no data", path, field);
}

std::unique_ptr<parquet::arrow::FileReader> open_reader(const std::string& path,
                                                        Compression compression) {
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

void read_rows(parquet::arrow::FileReader& reader, int column, const std::string& path,
               const ParquetSink& sink) {
  const int64_t num_rows = reader.parquet_reader()->metadata()->num_rows();
  std::vector<int> groups(static_cast<size_t>(reader.num_row_groups()));
  for (size_t i = 0; i < groups.size(); ++i) groups[i] = static_cast<int>(i);
  const auto batches = guarded(
      path, [&] { return value_or_fail(reader.GetRecordBatchReader(groups, {column}), path); });
  int64_t rows_read = 0;
  std::shared_ptr<arrow::RecordBatch> batch;
  while (true) {
    guarded(path, [&] { check(batches->ReadNext(&batch), path); });
    if (!batch) break;
    if (batch->num_columns() != 1) {
      fail(ErrorCode::damaged, "{}: {} columns where one was read", path, batch->num_columns());
    }
    const arrow::Array& array = *batch->column(0);
    for (int64_t row = 0; row < array.length(); ++row) {
      ++rows_read;
      std::string_view text;
      if (guarded(path, [&] { return text_at(array, row, text); })) {
        sink.on_text(text, static_cast<double>(rows_read) / static_cast<double>(num_rows));
      } else {
        sink.on_null();
      }
    }
  }
  if (rows_read != num_rows) {
    fail(ErrorCode::damaged, "{}: the footer says {} rows, the column holds {}", path, num_rows,
         rows_read);
  }
}

}  // namespace

void read_parquet(const std::string& path, Compression compression, const std::string& field,
                  const ParquetSink& sink) {
  const auto reader = guarded(path, [&] { return open_reader(path, compression); });
  const int column = guarded(path, [&] { return find_column(*reader, field, path); });
  read_rows(*reader, column, path, sink);
}

}  // namespace osp
