// Rows of a Parquet file as records of a benchmark: strings, numbers, lists and structs of them.
//
// Tested by tests/python/test_eval_tasks.py.
#pragma once

#include <string>
#include <vector>

#include "osp/data/benchmark_record.h"

namespace osp {

// Calls `sink` with the named columns of each row, in order. Error(damaged) if the file has none of
// them.
void read_parquet_records(const std::string& path, const std::vector<std::string>& fields,
                          const RecordSink& sink);

}  // namespace osp
