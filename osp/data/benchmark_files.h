// The files of benchmarks: the search for a benchmark in a folder, and its records.
//
// Two layouts are known. That of the hub's repositories as downloaded, in folders of any depth:
// `ai2_arc/ARC-Easy/test-00000-of-00001.parquet`, also as the hub's cache names them
// (`datasets--tau--commonsense_qa/snapshots/…/data/validation-….parquet`). And one folder per
// benchmark with one file per split: `arc_easy/test.jsonl`, `mmlu/test/anatomy_test.csv`.
//
// Tested by osp/eval/task_test.cpp and tests/python/test_eval_tasks.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/data/benchmark_record.h"

namespace osp {

// The place of a benchmark's records.
struct BenchmarkPlace {
  std::vector<std::string> folders = {};  // names that its folder may have, in lower case with "_"
  std::string config = "";                // the part of it, a folder below, where there are several
  std::vector<std::string> fields = {};   // columns to read from Parquet files
  bool many_folders = false;              // a split is all files of that name (MMLU's subjects)
};

// The files of the first of these splits that exists, sorted by path: FOLDER/…/SPLIT.jsonl,
// SPLIT-00000-of-00002.parquet, SPLIT/anatomy_SPLIT.csv. Error(usage) that names the files it
// looked for if there are none, or if they lie in several folders.
std::vector<std::string> find_benchmark_files(const std::string& root, const BenchmarkPlace& place,
                                              const std::vector<std::string>& splits);

// Their records in order, at most `limit` (0: all). Errors name the file and the line or row.
std::vector<BenchmarkRecord> read_benchmark_files(const std::vector<std::string>& files,
                                                  const std::vector<std::string>& fields,
                                                  int64_t limit);

// The records of one file of JSON lines with these fields; reading stops where `sink` returns
// false.
void read_json_lines(const std::string& path, const std::vector<std::string>& fields,
                     const RecordSink& sink);

// The records of a CSV file without header (RFC 4180: quotes, "" inside them, line breaks inside
// them); reading stops where `sink` returns false.
void read_csv(const std::string& path, const RecordSink& sink);

}  // namespace osp
