#include "osp/data/text_reader_parquet.h"

#include <arrow/array.h>
#include <arrow/record_batch.h>
#include <arrow/type.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>

#include <memory>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/printable.h"
#include "osp/data/parquet_file.h"

namespace osp {
namespace {

using parquet_file::check;
using parquet_file::guarded;
using parquet_file::value_or_fail;

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
  if (!parquet_file::is_text(*schema->field(index)->type())) {
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
      if (guarded(path, [&] { return parquet_file::text_at(array, row, text); })) {
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
  const auto reader = guarded(path, [&] { return parquet_file::open(path, compression); });
  const int column = guarded(path, [&] { return find_column(*reader, field, path); });
  read_rows(*reader, column, path, sink);
}

}  // namespace osp
