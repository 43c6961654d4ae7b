// Feeds arbitrary bytes to the CSV reader of benchmark files. Rows that it returns must be the same
// when they are written as CSV with every field in quotes and read again.
#include <cstdint>
#include <string>
#include <vector>

#include "fuzz/memory_file.h"
#include "osp/base/error.h"
#include "osp/data/benchmark_files.h"

namespace {

using Rows = std::vector<std::vector<std::string>>;

Rows rows_of(const std::string& path) {
  Rows rows;
  int64_t last = 0;
  osp::read_csv(path, [&](const osp::BenchmarkRecord& record) {
    OSP_CHECK(record.number >= last, "line {} after line {}", record.number, last);
    last = record.number;
    rows.push_back(osp::strings_field(record, "columns"));
    return rows.size() < 1000;
  });
  return rows;
}

std::string quoted(const Rows& rows) {
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      text += i == 0 ? "\"" : ",\"";
      for (const char c : row[i]) text += c == '"' ? std::string("\"\"") : std::string(1, c);
      text += '"';
    }
    text += '\n';
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Rows rows;
  try {
    rows = rows_of(osp::fuzz::memory_file("test.csv", data, size));
  } catch (const osp::Error&) {
    return 0;
  }
  const std::string text = quoted(rows);
  const std::string path = osp::fuzz::memory_file(
      "again.csv", reinterpret_cast<const uint8_t*>(text.data()), text.size());
  OSP_CHECK(rows_of(path) == rows, "rows changed on their way");
  return 0;
}
