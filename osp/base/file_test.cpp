#include "osp/base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <future>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "osp/base/test_error.h"
#include "osp/base/test_file_limit.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST(ReadFile, ReturnsEveryByteOfSmallAndLargeFiles) {
  const TestFolder folder;
  for (const size_t size : {size_t{0}, size_t{1}, size_t{1} << 20, (size_t{3} << 20) + 7}) {
    std::string bytes(size, '\0');
    std::iota(bytes.begin(), bytes.end(), '\0');
    write_file_atomic(folder / "f", bytes);
    EXPECT_EQ(read_file(folder / "f"), bytes) << size;
  }
}

TEST(ReadFile, ReadsFilesThatHaveNoSize) {
  EXPECT_NE(read_file("/proc/self/status").find("Pid:"), std::string::npos);
}

TEST(ReadFile, LimitIsInclusive) {
  const TestFolder folder;
  write_file_atomic(folder / "f", "12345");
  EXPECT_EQ(read_file(folder / "f", 5), "12345");
  expect_error(ErrorCode::damaged, {folder / "f", "4 bytes"}, [&] { read_file(folder / "f", 4); });
  expect_error(ErrorCode::damaged, {"/dev/zero"}, [&] { read_file("/dev/zero", 1000); });
}

TEST(ReadFile, AbsentFilesAndFoldersAreIoErrors) {
  const TestFolder folder;
  expect_error(ErrorCode::io, {folder / "x", "No such file"}, [&] { read_file(folder / "x"); });
  expect_error(ErrorCode::io, {folder.path(), "directory"}, [&] { read_file(folder.path()); });
}

TEST(WriteFileAtomic, ReplacesTheNameAndNeverTheOldBytes) {
  const TestFolder folder;
  write_file_atomic(folder / "f", "old bytes");
  const MappedFile old(folder / "f");
  write_file_atomic(folder / "f", "new");
  EXPECT_EQ(read_file(folder / "f"), "new");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(old.bytes().data()), old.bytes().size()),
            "old bytes");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
}

TEST(MappedFile, ReleasedPagesCanBeReadAgain) {
  const TestFolder folder;
  std::string bytes(3 << 16, 'a');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 % 251);
  const MappedFile file(folder.write("f", bytes));
  const auto text = [&] {
    return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  };
  EXPECT_EQ(text(), bytes);
  release_pages(file.bytes().subspan(100, 100000));
  release_pages(file.bytes().subspan(7, 3));
  EXPECT_EQ(text(), bytes);
}

TEST(WriteFileAtomic, AFailedWriteLeavesTheOldFileAndNoOther) {
  const TestFolder folder;
  write_file_atomic(folder / "f", "old");
  {
    const FileSizeLimit limit(1000);
    expect_error(ErrorCode::io, {folder / "f", "write", "File too large"},
                 [&] { write_file_atomic(folder / "f", std::string(2000, 'x')); });
  }
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
}

TEST(WriteFileAtomic, AFailedRenameLeavesNoTemporaryFile) {
  const TestFolder folder;
  make_directories(folder / "taken/inner");
  expect_error(ErrorCode::io, {folder / "taken", "rename"},
               [&] { write_file_atomic(folder / "taken", "x"); });
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"taken"});
}

TEST(WriteFileAtomic, WorksForANameWithoutFolder) {
  const TestFolder folder;
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write_file_atomic("bare", "x");
  std::filesystem::current_path(before);
  EXPECT_EQ(read_file(folder / "bare"), "x");
}

TEST(WriteFileAtomic, AWriterThatThrowsLeavesTheOldFileAndNoOther) {
  const TestFolder folder;
  const auto writer = [](const char* text, bool fails) {
    return [=](const std::string& path) {
      FileWriter file(path);
      file.write(text, 3);
      if (fails) throw std::runtime_error("the source is gone");
      file.close();
    };
  };
  write_file_atomic(folder / "f", writer("old", false));
  EXPECT_THROW(write_file_atomic(folder / "f", writer("new", true)), std::runtime_error);
  EXPECT_EQ(read_file(folder / "f"), "old");
  write_file_atomic(folder / "f", writer("new", false));
  EXPECT_EQ(read_file(folder / "f"), "new");
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
}

// Writes `text` as the only file of a folder, after the final name was seen not to change.
WriteAt only_file(const std::string& path, const std::string& text) {
  const bool existed = path_exists(path);
  return [=](const std::string& temporary) {
    EXPECT_EQ(temporary, path + ".tmp");
    EXPECT_EQ(names_in(temporary), std::vector<std::string>{});
    write_file_atomic(temporary + "/f", text);
    EXPECT_EQ(path_exists(path), existed);
  };
}

TEST(WriteFolderAtomic, AppearsWholeAndWithoutWhatAnInterruptedProcessLeft) {
  const TestFolder folder;
  const std::string path = folder / "made/out";
  make_directories(path + ".tmp/stale");
  write_folder_atomic(path, only_file(path, "x"));
  EXPECT_EQ(names_in(folder / "made"), std::vector<std::string>{"out"});
  EXPECT_EQ(names_in(path), std::vector<std::string>{"f"});
}

TEST(WriteFolderAtomic, AWriterThatThrowsLeavesNothingAndTheOldFolder) {
  const TestFolder folder;
  const std::string path = folder / "out";
  const auto failing = [](const std::string& temporary) {
    write_file_atomic(temporary + "/f", "half");
    throw std::runtime_error("the source is gone");
  };
  EXPECT_THROW(write_folder_atomic(path, failing), std::runtime_error);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{});
  write_folder_atomic(path, only_file(path, "old"));
  EXPECT_THROW(write_folder_atomic(path, failing, IfExists::replace), std::runtime_error);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"out"});
  EXPECT_EQ(read_file(path + "/f"), "old");
}

TEST(WriteFolderAtomic, RefusesAFolderWithEntriesUnlessItIsToBeReplaced) {
  const TestFolder folder;
  const std::string path = folder / "out";
  make_directories(path);  // empty: taken over
  write_folder_atomic(path, only_file(path, "old"));
  expect_error(ErrorCode::io, {path, "rename"},
               [&] { write_folder_atomic(path, only_file(path, "new")); });
  EXPECT_EQ(read_file(path + "/f"), "old");
  write_file_atomic(path + "/other", "x");
  write_folder_atomic(path, only_file(path, "new"), IfExists::replace);
  EXPECT_EQ(read_file(path + "/f"), "new");
  EXPECT_EQ(names_in(path), std::vector<std::string>{"f"});
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"out"});
}

TEST(WriteFolderAtomic, AFullDiskIsAnIoErrorAndLeavesNothing) {
  const TestFolder folder;
  const std::string path = folder / "out";
  const FileSizeLimit limit(1000);
  expect_error(ErrorCode::io, {path, "write"},
               [&] { write_folder_atomic(path, only_file(path, std::string(2000, 'x'))); });
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{});
}

TEST(FileWriter, CountsAndKeepsWhatItWrote) {
  const TestFolder folder;
  FileWriter writer(folder / "f");
  writer.write("abc", 3);
  writer.write(nullptr, 0);
  writer.write("de", 2);
  EXPECT_EQ(writer.bytes_written(), 5u);
  writer.close();
  EXPECT_EQ(read_file(folder / "f"), "abcde");
  EXPECT_THROW(writer.write("f", 1), std::logic_error);
  EXPECT_THROW(writer.close(), std::logic_error);
}

TEST(FileWriter, AFullDiskIsAnIoErrorWithPathAndReason) {
  FileWriter writer("/dev/full");
  expect_error(ErrorCode::io, {"/dev/full", "write", "No space left"},
               [&] { writer.write("x", 1); });
}

TEST(FileWriter, AFailedFsyncIsAnIoErrorAndTheFileIsClosed) {
  FileWriter writer("/dev/null");  // accepts writes, cannot be synced
  writer.write("x", 1);
  expect_error(ErrorCode::io, {"/dev/null", "fsync"}, [&] { writer.close(); });
  EXPECT_THROW(writer.close(), std::logic_error);  // a failed fsync must not be tried again
}

TEST(FileWriter, AnUnwritablePathIsAnIoError) {
  const TestFolder folder;
  expect_error(ErrorCode::io, {folder / "no/f", "No such file"},
               [&] { FileWriter writer(folder / "no/f"); });
}

TEST(MappedFile, ShowsTheBytesAndMovesThem) {
  const TestFolder folder;
  write_file_atomic(folder / "f", "bytes");
  write_file_atomic(folder / "empty", "");
  MappedFile file(folder / "f");
  const std::byte* address = file.bytes().data();
  MappedFile moved(std::move(file));
  EXPECT_EQ(moved.bytes().data(), address);
  EXPECT_EQ(moved.bytes().size(), 5u);
  MappedFile empty(folder / "empty");
  EXPECT_TRUE(empty.bytes().empty());
  empty = std::move(moved);
  EXPECT_EQ(empty.bytes().data(), address);
  EXPECT_EQ(empty.path(), folder / "f");
}

TEST(MappedFile, AbsentFilesFoldersAndDevicesAreIoErrors) {
  const TestFolder folder;
  expect_error(ErrorCode::io, {folder / "x"}, [&] { MappedFile file(folder / "x"); });
  expect_error(ErrorCode::io, {folder.path()}, [&] { MappedFile file(folder.path()); });
  expect_error(ErrorCode::io, {"/dev/zero"}, [&] { MappedFile file("/dev/zero"); });
}

TEST(FileLock, ASecondHolderIsRefusedUntilTheFirstLetsGo) {
  const TestFolder folder;
  {
    const FileLock first(folder / "lock");
    expect_error(ErrorCode::usage, {folder / "lock", "another process"},
                 [&] { FileLock second(folder / "lock"); });
  }
  EXPECT_NO_THROW(FileLock third(folder / "lock"));
}

TEST(FileLock, ASecondHolderWaitsForTheFirstWhereAskedTo) {
  const TestFolder folder;
  auto first = std::make_unique<FileLock>(folder / "lock");
  std::future<void> second = std::async(
      std::launch::async, [&] { const FileLock waiting(folder / "lock", /*wait=*/true); });
  EXPECT_EQ(second.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  first.reset();
  EXPECT_NO_THROW(second.get());
}

TEST(Folders, AreMadeSyncedRenamedAndRemoved) {
  const TestFolder folder;
  make_directories(folder / "a/b");
  make_directories(folder / "a/b");  // again: nothing to do
  EXPECT_TRUE(is_directory(folder / "a/b"));
  write_file_atomic(folder / "a/b/f", "x");
  EXPECT_TRUE(path_exists(folder / "a/b/f"));
  EXPECT_FALSE(is_directory(folder / "a/b/f"));
  fsync_file(folder / "a/b/f");
  fsync_directory(folder / "a/b");
  rename_path(folder / "a", folder / "c");
  EXPECT_FALSE(path_exists(folder / "a"));
  remove_tree(folder / "c");
  EXPECT_FALSE(path_exists(folder / "c"));
  remove_tree(folder / "c");  // absent: nothing to do
}

TEST(Folders, FailuresAreIoErrorsWithThePath) {
  const TestFolder folder;
  write_file_atomic(folder / "f", "x");
  expect_error(ErrorCode::io, {folder / "f"}, [&] { make_directories(folder / "f/below"); });
  expect_error(ErrorCode::io, {folder / "f"}, [&] { fsync_directory(folder / "f"); });
  expect_error(ErrorCode::io, {folder / "x"}, [&] { fsync_file(folder / "x"); });
  expect_error(ErrorCode::io, {folder / "x", folder / "y"},
               [&] { rename_path(folder / "x", folder / "y"); });
  expect_error(ErrorCode::io, {"/dev/null", "fsync"}, [&] { fsync_file("/dev/null"); });
}

}  // namespace
}  // namespace osp
