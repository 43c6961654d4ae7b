// Bytes of the event file format; that TensorBoard reads them is tests/python/test_tensorboard.py.
#include "osp/formats/tensorboard.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

using std::string_literals::operator""s;

TEST(Crc32c, PublishedVectors) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);  // the check value of the CRC catalogue
  // RFC 3720, appendix B.4.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
  std::string ascending, descending;
  for (int i = 0; i < 32; ++i) {
    ascending += static_cast<char>(i);
    descending += static_cast<char>(31 - i);
  }
  EXPECT_EQ(crc32c(ascending), 0x46DD794Eu);
  EXPECT_EQ(crc32c(descending), 0x113FDB5Cu);
  EXPECT_EQ(crc32c(""), 0u);
}

// The events of a file; fails the test at a wrong length or checksum.
std::vector<std::string> events_of(const std::string& path) {
  const std::string bytes = read_file(path);
  std::vector<std::string> events;
  size_t at = 0;
  while (at < bytes.size()) {
    uint64_t length = 0;
    uint32_t length_crc = 0, event_crc = 0;
    if (bytes.size() - at < 16) {
      ADD_FAILURE() << "torn record at " << at;
      break;
    }
    std::memcpy(&length, bytes.data() + at, 8);
    std::memcpy(&length_crc, bytes.data() + at + 8, 4);
    EXPECT_EQ(length_crc, masked_crc32c(bytes.substr(at, 8)));
    if (bytes.size() - at < 16 + length) {
      ADD_FAILURE() << "torn record at " << at;
      break;
    }
    events.push_back(bytes.substr(at + 12, length));
    std::memcpy(&event_crc, bytes.data() + at + 12 + length, 4);
    EXPECT_EQ(event_crc, masked_crc32c(events.back()));
    at += 16 + length;
  }
  return events;
}

TEST(EventWriter, RecordsAreTheExpectedBytes) {
  const TestFolder folder;
  EventWriter writer(folder.path(), 1.0);
  writer.scalar("loss", 300, 0.5, 2.0);
  const std::vector<std::string> events = events_of(writer.path());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0], "\x09\0\0\0\0\0\0\xF0\x3F"s + "\x10\0"s + "\x1A\x0D" + "brain.Event:2");
  EXPECT_EQ(events[1], "\x09\0\0\0\0\0\0\0\x40"s + "\x10\xAC\x02" + "\x2A\x0D" + "\x0A\x0B" +
                           "\x0A\x04" + "loss" + "\x15\0\0\0\x3F"s);
}

TEST(EventWriter, EveryRecordIsInTheFileWhenTheCallReturns) {
  const TestFolder folder;
  EventWriter writer(folder.path(), 1.0);
  for (int i = 0; i < 5; ++i) {
    writer.scalar("a", i, i, i);
    EXPECT_EQ(events_of(writer.path()).size(), static_cast<size_t>(i) + 2);
  }
  writer.text("sample", 5, std::string(100'000, 'x'), 5);
  writer.flush();
  EXPECT_EQ(events_of(writer.path()).size(), 7u);
}

TEST(EventWriter, ASecondWriterAddsAFileAndLeavesTheFirst) {
  const TestFolder folder;
  EventWriter first(folder.path(), 1'700'000'000.5);
  first.scalar("a", 1, 1, 1);
  const std::string before = read_file(first.path());
  EventWriter second(folder.path(), 1'700'000'000.5, 1);
  EXPECT_NE(first.path(), second.path());
  EXPECT_EQ(read_file(first.path()), before);
  EXPECT_NE(first.path().find("/events.out.tfevents.1700000000."), std::string::npos);
  EXPECT_EQ(events_of(second.path()).size(), 2u);
}

// The kind: files of one second, sorted by process id, hide the newer from viewers.
TEST(EventWriter, EveryFileSortsBehindThoseThatWereThere) {
  const TestFolder folder;
  EXPECT_FALSE(has_event_files(folder.path()));
  std::string newest;
  for (const double start_s : {1000.0, 1000.0, 1000.5, 990.0, 2000.0}) {
    const EventWriter writer(folder.path(), start_s);
    EXPECT_GT(writer.path(), newest);
    newest = writer.path();
  }
  EXPECT_TRUE(has_event_files(folder.path()));
}

TEST(EventWriter, AnAbsentFolderIsAnIoError) {
  const TestFolder folder;
  expect_error(ErrorCode::io, {}, [&] { EventWriter(folder / "absent", 1.0); });
}

}  // namespace
}  // namespace osp
