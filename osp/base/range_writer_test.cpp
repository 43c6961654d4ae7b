#include "osp/base/range_writer.h"

#include <gtest/gtest.h>

#include "osp/base/file.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

TEST(RangeWriter, SeveralWritersMakeOneFileInAnyOrder) {
  const TestFolder folder;
  const std::string path = folder / "file";
  write_file_atomic(path, "head");
  RangeWriter late(path), early(path);
  late.write(8, "ijkl", 4);
  early.write(4, "ef", 2);
  early.write(6, "gh", 2);
  late.close();
  early.close();
  EXPECT_EQ(read_file(path), "headefghijkl");
}

TEST(RangeWriter, AFileThatIsNotThereIsNotCreated) {
  const TestFolder folder;
  const std::string path = folder / "absent";
  expect_error(ErrorCode::io, {path, "cannot open for writing", "No such file"},
               [&] { RangeWriter writer(path); });
  EXPECT_FALSE(path_exists(path));
}

TEST(RangeWriter, AFullDiskIsNamed) {
  RangeWriter writer("/dev/full");
  expect_error(ErrorCode::io, {"/dev/full", "cannot write", "No space left"},
               [&] { writer.write(0, "x", 1); });
}

}  // namespace
}  // namespace osp
