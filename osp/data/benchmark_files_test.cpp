#include "osp/data/benchmark_files.h"

#include <gtest/gtest.h>

#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

using Texts = std::vector<std::string>;

TEST(BenchmarkFiles, CsvKeepsQuotedCommasAndLines) {
  const TestFolder folder;
  const std::string file = folder.write("a_test.csv", "\"a \"\"b\"\",\nc\",d,\r\ne,f,g\n");
  std::vector<BenchmarkRecord> records;
  read_csv(file, [&](BenchmarkRecord record) {
    records.push_back(std::move(record));
    return true;
  });
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(strings_field(records[0], "columns"), (Texts{"a \"b\",\nc", "d", ""}));
  EXPECT_EQ(records[1].where(), file + ": line 3");
  folder.write("a_test.csv", "a\n\"b");
  expect_error(ErrorCode::damaged, {"line 2", "not closed"},
               [&] { read_csv(file, [](BenchmarkRecord) { return true; }); });
}

}  // namespace
}  // namespace osp
