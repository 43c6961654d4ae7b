// Parquet: the rows of one text column.
//
// Tested by osp/data/text_reader_test.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "osp/data/text_reader_stream.h"

namespace osp {

// Called for each row with its text and the share of the file's rows that have been read, in [0,
// 1]. Null rows are passed over; `on_null` is called for them.
struct ParquetSink {
  std::function<void(std::string_view text, double progress)> on_text;
  std::function<void()> on_null;
};

// Reads column `field` (string, large string, string view, binary, or a dictionary of one of them)
// in batches of rows, so memory does not grow with the file. A compressed .parquet.gz and a
// file of an object store are copied into an unnamed temporary file first, since Parquet is read
// from its end. Error(damaged) naming
// the file for files that Arrow refuses, Error(usage) naming the columns if there is no such one or
// it is not text.
void read_parquet(const std::string& path, Compression compression, const std::string& field,
                  const ParquetSink& sink);

}  // namespace osp
