// Opening Parquet files, with Arrow's failures as Errors. Only for files that include Arrow.
//
// Tested by osp/data/text_reader_test.cpp and tests/python/test_eval_tasks.py.
#pragma once

#include <arrow/result.h>
#include <arrow/status.h>
#include <parquet/arrow/reader.h>

#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/printable.h"
#include "osp/data/text_reader_stream.h"

namespace osp::parquet_file {

inline constexpr size_t kMessageBytes = 300;  // longest quotation of Arrow's messages

inline void check(const arrow::Status& status, const std::string& path) {
  if (!status.ok()) {
    fail(ErrorCode::damaged, "{}: {}", path, printable(status.message(), kMessageBytes));
  }
}

// The result of `call`; Arrow's exceptions, of whatever type, mean that the file is damaged.
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

// A reader in batches of few rows, so that memory does not grow with the file. A compressed file,
// or one of an object store, is copied into an unnamed temporary file first. May throw Arrow's
// exceptions (see guarded).
std::unique_ptr<parquet::arrow::FileReader> open(const std::string& path, Compression compression);

// The text of row `row` of an array of any text type; false for null. Throws Arrow's exceptions.
bool text_at(const arrow::Array& array, int64_t row, std::string_view& text);
// True if text_at can read arrays of this type.
bool is_text(const arrow::DataType& type);

}  // namespace osp::parquet_file
