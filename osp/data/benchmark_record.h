// One record of a benchmark's files, whatever their format: a JSON object and its place in the
// file.
//
// Tested by osp/eval/task_test.cpp and tests/python/test_eval_tasks.py.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "osp/base/json.h"

namespace osp {

// A row of a CSV file without header is {"columns": [strings]}.
struct BenchmarkRecord {
  Json fields;
  std::string file;
  int64_t number = 0;         // its first line, or its row in a Parquet file; from 1
  bool is_row = false;        // true for Parquet files
  std::string where() const;  // "test.jsonl: line 3", "test.parquet: row 3"
};

// Receives record after record; returns false to stop the reading.
using RecordSink = std::function<bool(BenchmarkRecord)>;

// Fields. Each is an Error(damaged) that names the place and the field if it is absent (with the
// names of the fields that exist) or has another type.
bool has_field(const BenchmarkRecord& record, const std::string& name);
std::string string_field(const BenchmarkRecord& record, const std::string& name);
std::vector<std::string> strings_field(const BenchmarkRecord& record, const std::string& name);
// A list inside an object: {"choices": {"text": […]}} is strings_field(record, "choices", "text").
std::vector<std::string> strings_field(const BenchmarkRecord& record, const std::string& name,
                                       const std::string& inner);
// A number, or its digits as a string.
int64_t number_field(const BenchmarkRecord& record, const std::string& name);

// The index of `label` in `labels`; Error(damaged) naming `name` if it is not there.
size_t label_index(const BenchmarkRecord& record, const std::string& name, const std::string& label,
                   const std::vector<std::string>& labels);
// `value` − `first` as an index below `count`, or Error(damaged).
size_t checked_label(const BenchmarkRecord& record, const std::string& name, int64_t value,
                     int64_t first, size_t count);

}  // namespace osp
