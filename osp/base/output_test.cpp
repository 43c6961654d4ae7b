// Output paths are judged before work: whatever the name, what can never be filled is refused, and
// what can be is held.
#include "osp/base/output.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

namespace fs = std::filesystem;

struct Output : ::testing::Test {
  TestFolder folder;
};

TEST_F(Output, SlashesAtTheEndAreNoPartOfTheName) {
  for (const char* end : {"", "/", "//"}) {
    EXPECT_EQ(resolved_output((folder / "name") + end), folder / "name");
  }
  EXPECT_EQ(resolved_output("name/"), "name");
}

TEST_F(Output, LinksAreFollowedAlsoToWhatDoesNotExistYet) {
  fs::create_symlink("target", folder / "link");
  fs::create_symlink(folder / "link", folder / "second");
  EXPECT_EQ(resolved_output((folder / "second") + "/"), folder / "target");
  fs::create_symlink("loop", folder / "loop");
  expect_error(ErrorCode::usage, {"loop"}, [&] { resolved_output(folder / "loop"); });
}

TEST_F(Output, NamesThatNothingCanBeRenamedToAreRefusedOrSpelledOut) {
  for (const char* name : {"", "/", "//"}) {
    expect_error(ErrorCode::usage, {"--table"}, [&] { resolved_output(name, "--table"); });
  }
  EXPECT_EQ(resolved_output((folder / ".")), fs::canonical(folder.path()).string());
  const std::string longest(250, 'n');
  expect_error(ErrorCode::usage, {"250 bytes"},
               [&] { ReservedOutput(folder / longest, OutputKind::file); });
}

TEST_F(Output, WhatIsOfAnotherKindIsRefused) {
  write_file_atomic(folder / "file", "content");
  fs::create_directories(folder / "full/entry");
  fs::create_directories(folder / "empty");
  const auto refused = [&](const std::string& path, OutputKind kind) {
    expect_error(ErrorCode::usage, {path}, [&] { ReservedOutput(path, kind); });
  };
  refused(folder / "file", OutputKind::new_file);
  refused(folder / "file", OutputKind::new_folder);
  refused(folder / "file", OutputKind::folder);
  refused(folder / "full", OutputKind::new_folder);
  refused(folder / "full", OutputKind::file);
  refused("/dev/null", OutputKind::file);  // a rename would replace the device
  refused((folder / "new") + "/", OutputKind::file);
  refused("/proc", OutputKind::new_folder);
  ReservedOutput(folder / "file", OutputKind::file);
  ReservedOutput(folder / "full", OutputKind::folder);
  ReservedOutput(folder / "empty", OutputKind::new_folder);
}

TEST_F(Output, AFolderThatCannotBeWrittenIsFoundAtOnce) {
  expect_error(ErrorCode::io, {"/proc/result"},
               [&] { ReservedOutput("/proc/result", OutputKind::file); });
  write_file_atomic(folder / "file", "content");
  expect_error(ErrorCode::io, {"none/result"},
               [&] { ReservedOutput(folder / "none/result", OutputKind::file); });
  EXPECT_FALSE(fs::exists(folder / "none"));
  expect_error(ErrorCode::io, {},
               [&] { ReservedOutput(folder / "file/result", OutputKind::file); });
}

TEST_F(Output, ANameIsHeldByOneProcessAndThenFree) {
  {
    const ReservedOutput held(folder / "deep/name", OutputKind::new_folder);
    expect_error(ErrorCode::usage, {"another process"},
                 [&] { ReservedOutput((folder / "deep/name") + "/", OutputKind::new_folder); });
  }
  EXPECT_TRUE(fs::is_empty(folder / "deep"));
  ReservedOutput(folder / "deep/name", OutputKind::new_folder);
}

TEST_F(Output, WritingThroughALinkFillsItsTarget) {
  fs::create_directories(folder / "elsewhere");
  fs::create_symlink("elsewhere/file", folder / "link");
  fs::create_symlink("elsewhere/folder", folder / "folder-link");
  write_file_atomic(folder / "link", "content");
  write_folder_atomic(folder / "folder-link", [](const std::string& temporary) {
    write_file_atomic(temporary + "/entry", "content");
  });
  EXPECT_TRUE(fs::is_symlink(folder / "link") && fs::is_symlink(folder / "folder-link"));
  EXPECT_EQ(read_file(folder / "elsewhere/file"), "content");
  EXPECT_EQ(read_file(folder / "elsewhere/folder/entry"), "content");
}

TEST_F(Output, TwoOptionsCannotNameOnePath) {
  fs::create_symlink("a", folder / "link");
  check_distinct_outputs({{"--out", folder / "a"}, {"--table", folder / "b"}, {"--items", ""}});
  expect_error(ErrorCode::usage, {"--out", "--table"}, [&] {
    check_distinct_outputs({{"--out", folder / "a"}, {"--table", (folder / ".") + "/link"}});
  });
}

}  // namespace
}  // namespace osp
