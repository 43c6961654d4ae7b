#include "osp/data/benchmark_parquet.h"

#include <arrow/array.h>
#include <arrow/record_batch.h>
#include <arrow/type.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>

#include <algorithm>

#include "osp/data/parquet_file.h"

namespace osp {
namespace {

template <class ArrayType>
Json number_at(const arrow::Array& array, int64_t row) {
  return static_cast<const ArrayType&>(array).Value(row);
}

template <class ListType>
Json list_at(const arrow::Array& array, int64_t row);

Json value_at(const arrow::Array& array, int64_t row) {
  if (array.IsNull(row)) return nullptr;
  switch (array.type_id()) {
    case arrow::Type::BOOL:
      return number_at<arrow::BooleanArray>(array, row);
    case arrow::Type::INT8:
      return number_at<arrow::Int8Array>(array, row);
    case arrow::Type::UINT8:
      return number_at<arrow::UInt8Array>(array, row);
    case arrow::Type::INT16:
      return number_at<arrow::Int16Array>(array, row);
    case arrow::Type::UINT16:
      return number_at<arrow::UInt16Array>(array, row);
    case arrow::Type::INT32:
      return number_at<arrow::Int32Array>(array, row);
    case arrow::Type::UINT32:
      return number_at<arrow::UInt32Array>(array, row);
    case arrow::Type::INT64:
      return number_at<arrow::Int64Array>(array, row);
    case arrow::Type::UINT64:
      return number_at<arrow::UInt64Array>(array, row);
    case arrow::Type::FLOAT:
      return number_at<arrow::FloatArray>(array, row);
    case arrow::Type::DOUBLE:
      return number_at<arrow::DoubleArray>(array, row);
    case arrow::Type::LIST:
      return list_at<arrow::ListArray>(array, row);
    case arrow::Type::LARGE_LIST:
      return list_at<arrow::LargeListArray>(array, row);
    case arrow::Type::STRUCT: {
      const auto& object = static_cast<const arrow::StructArray&>(array);
      Json result = Json::object();
      for (int i = 0; i < object.num_fields(); ++i) {
        result[object.struct_type()->field(i)->name()] = value_at(*object.field(i), row);
      }
      return result;
    }
    default:
      break;
  }
  if (!parquet_file::is_text(*array.type())) {
    throw parquet::ParquetException("a column of type " + array.type()->ToString() +
                                    ", which no benchmark has");
  }
  std::string_view text;
  if (!parquet_file::text_at(array, row, text)) return nullptr;
  return std::string(text);
}

template <class ListType>
Json list_at(const arrow::Array& array, int64_t row) {
  const auto& list = static_cast<const ListType&>(array);
  Json result = Json::array();
  for (int64_t i = list.value_offset(row); i < list.value_offset(row + 1); ++i) {
    result.push_back(value_at(*list.values(), i));
  }
  return result;
}

// Leaf columns of the fields that the file has.
std::vector<int> leaves_of(parquet::arrow::FileReader& reader,
                           const std::vector<std::string>& fields) {
  const auto* schema = reader.parquet_reader()->metadata()->schema();
  std::vector<int> leaves;
  for (int leaf = 0; leaf < schema->num_columns(); ++leaf) {
    const std::string& root = schema->GetColumnRoot(leaf)->name();
    if (std::find(fields.begin(), fields.end(), root) != fields.end()) leaves.push_back(leaf);
  }
  return leaves;
}

}  // namespace

void read_parquet_records(const std::string& path, const std::vector<std::string>& fields,
                          const RecordSink& sink) {
  using namespace parquet_file;
  const auto reader = guarded(path, [&] { return open(path, Compression::none); });
  const std::vector<int> leaves = leaves_of(*reader, fields);
  if (leaves.empty()) {
    const auto* root = reader->parquet_reader()->metadata()->schema()->group_node();
    std::string names;
    for (int i = 0; i < root->field_count(); ++i) {
      names += (names.empty() ? "" : ", ") + root->field(i)->name();
    }
    fail(ErrorCode::damaged, "{}: none of this benchmark's columns; it has: {} (another layout)",
         path, printable(names, 200));
  }
  std::vector<int> groups(static_cast<size_t>(reader->num_row_groups()));
  for (size_t i = 0; i < groups.size(); ++i) groups[i] = static_cast<int>(i);
  const auto batches = guarded(
      path, [&] { return value_or_fail(reader->GetRecordBatchReader(groups, leaves), path); });
  int64_t number = 0;
  std::shared_ptr<arrow::RecordBatch> batch;
  while (true) {
    guarded(path, [&] { check(batches->ReadNext(&batch), path); });
    if (!batch) return;
    for (int64_t row = 0; row < batch->num_rows(); ++row) {
      BenchmarkRecord record{Json::object(), path, ++number, true};
      for (int column = 0; column < batch->num_columns(); ++column) {
        record.fields[batch->column_name(column)] =
            guarded(path, [&] { return value_at(*batch->column(column), row); });
      }
      if (!sink(std::move(record))) return;
    }
  }
}

}  // namespace osp
