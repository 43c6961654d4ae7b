#include "osp/data/shards_build.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <map>

#include "osp/base/file.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"
#include "osp/data/dataset.h"

namespace osp {
namespace {

constexpr int32_t kEnd = 256, kBegin = 257;

// One id a byte: what goes in can be read off what comes out.
TextEncoder byte_encoder() {
  return {.append =
              [](std::string_view text, std::vector<int32_t>& ids) {
                for (const unsigned char c : text) ids.push_back(c);
              },
          .vocabulary = 258,
          .json = "{}"};
}

std::string text_of(const std::string& folder, const std::string& split) {
  const TokenDataset data = TokenDataset::open(folder, split, true);
  std::vector<int64_t> ids(data.num_tokens());
  data.copy(0, ids);
  std::string text;
  for (const int64_t id : ids) {
    text += id == kEnd ? "<e>" : id == kBegin ? "<b>" : std::string(1, static_cast<char>(id));
  }
  return text;
}

std::map<std::string, std::string> bytes_of(const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    files[entry.path().filename().string()] = read_file(entry.path().string());
  }
  return files;
}

ShardBuildOptions options_for(const TestFolder& folder, const std::string& input) {
  return {.files = find_text_inputs({folder / input}, "").files,
          .read = {.policy = parse_document_policy("lines", "")},
          .out = folder / "out",
          .end_of_document = kEnd};
}

TEST(BuildShards, EveryDocumentIsFollowedByItsEndInTheOrderOfTheText) {
  TestFolder folder;
  write_file_atomic(folder / "a.txt", "one\n\n two \nthree");
  Console console(true);
  ShardBuildOptions options = options_for(folder, "a.txt");
  options.begin_of_document = kBegin;
  const ShardBuildReport report = build_shards(options, byte_encoder(), console);
  EXPECT_EQ(text_of(options.out, "train"), "<b>one<e><b> two <e><b>three<e>");
  EXPECT_EQ(report.text_bytes, 13u);
  EXPECT_EQ(report.index.splits.at("train").num_documents, 3u);
  EXPECT_EQ(report.index.sources.at(0).num_documents, 3u);
  EXPECT_EQ(report.index.end_of_document, kEnd);
}

TEST(BuildShards, JsonLinesDropNullsAndEmptyTextsAndCountThem) {
  TestFolder folder;
  write_file_atomic(folder / "a.jsonl",
                    "{\"text\":\"one\"}\n{\"text\":null}\n{\"text\":\"\"}\n{\"text\":\" \\n\"}\n"
                    "{\"text\":\"two\"}\n");
  Console console(true);
  const ShardBuildOptions options = options_for(folder, "a.jsonl");
  const ShardBuildReport report = build_shards(options, byte_encoder(), console);
  EXPECT_EQ(text_of(options.out, "train"), "one<e>two<e>");
  EXPECT_EQ(report.dropped_documents, 3u);
}

TEST(BuildShards, BadLinesAreCountedByReasonWhateverTheChunksAndThreads) {
  TestFolder folder;
  std::string lines;
  for (int i = 0; i < 50; ++i) {
    lines +=
        "{\"text\":\"one\"}\n{\"text\":\"\\ud83d\"}\nno object\n{\"text\":null}\n{\"text\":\"" +
        std::string(100, 'x') + "\"}\n";
  }
  write_file_atomic(folder / "a.jsonl", lines);
  Console console(true);
  ShardBuildOptions options = options_for(folder, "a.jsonl");
  options.overwrite = true;
  options.read.max_line_bytes = 60;
  for (const auto policy : {OnBadLine::skip, OnBadLine::repair}) {
    for (const size_t chunk_bytes : {size_t{40}, size_t{1} << 20}) {
      options.read.on_bad_line = policy;
      options.read.chunk_bytes = chunk_bytes;
      options.num_threads = chunk_bytes == 40 ? 4 : 1;
      const ShardBuildReport report = build_shards(options, byte_encoder(), console);
      const std::string path = options.out + "/index.json";
      const ShardIndex index = parse_shard_index(read_file(path), path);
      const bool repairs = policy == OnBadLine::repair;
      EXPECT_EQ(index.on_bad_line, policy);
      LineCounts skipped{{"not_an_object", 50}, {"too_long", 50}};
      if (!repairs) skipped["lone_surrogate"] = 50;
      EXPECT_EQ(index.bad_lines.skipped, skipped);
      EXPECT_EQ(index.bad_lines.repaired,
                repairs ? (LineCounts{{"lone_surrogate", 50}}) : LineCounts{});
      EXPECT_EQ(report.dropped_documents, 50u);
      EXPECT_EQ(index.splits.at("train").num_documents, repairs ? 100u : 50u);
    }
  }
  options.read.on_bad_line = OnBadLine::stop;
  expect_error(ErrorCode::unsupported, {"line 5", "more than 60 bytes"},
               [&] { build_shards(options, byte_encoder(), console); });
}

// Lines that differ, some long, over many small chunks.
std::string many_lines() {
  std::string text;
  for (int i = 0; i < 3000; ++i) {
    text += fmt::format("{} {}\n", i, std::string(static_cast<size_t>(i * 31 % 97), 'x'));
  }
  return text;
}

TEST(BuildShards, FilesDoNotDependOnThreadsOrChunks) {
  TestFolder folder;
  write_file_atomic(folder / "a.txt", many_lines());
  Console console(true);
  std::map<std::string, std::string> expected;
  for (const int threads : {1, 2, 7}) {
    for (const size_t chunk_bytes : {size_t{200}, size_t{1} << 20}) {
      ShardBuildOptions options = options_for(folder, "a.txt");
      options.num_threads = threads;
      options.read.chunk_bytes = chunk_bytes;
      options.shard_tokens = 10'000;
      options.validation_fraction = 0.2;
      options.overwrite = true;
      build_shards(options, byte_encoder(), console);
      const auto files = bytes_of(options.out);
      EXPECT_GT(files.size(), 10u);
      if (expected.empty()) expected = files;
      EXPECT_TRUE(files == expected) << threads << " threads, chunks of " << chunk_bytes;
    }
  }
}

TEST(BuildShards, ADocumentStaysOnItsSideWhateverElseIsThere) {
  TestFolder folder;
  Console console(true);
  const auto held_out = [&](const std::string& text) {
    write_file_atomic(folder / "a.txt", text);
    ShardBuildOptions options = options_for(folder, "a.txt");
    options.validation_fraction = 0.25;
    options.overwrite = true;
    build_shards(options, byte_encoder(), console);
    return text_of(options.out, "validation");
  };
  const std::string text = many_lines();
  const size_t half = text.find('\n', text.size() / 2) + 1;
  const std::string first = held_out(text.substr(0, half)), second = held_out(text.substr(half));
  EXPECT_EQ(held_out(text), first + second);
  EXPECT_EQ(held_out(text.substr(half) + text.substr(0, half)), second + first);
  // Both sides together are everything, and nothing is on both.
  const std::string train = text_of(folder / "out", "train");
  EXPECT_EQ(train.size() + first.size() + second.size(), text.size() + 3000 * 2);  // "<e>" for "\n"
}

TEST(BuildShards, FailuresLeaveNothingBehind) {
  struct Case {
    const char* name;
    std::string file, text;
    double fraction;
    ErrorCode code;
  };
  const Case cases[] = {
      {"no text", "a.txt", "", 0, ErrorCode::damaged},
      {"white space only", "a.txt", " \n\n\t\n", 0, ErrorCode::damaged},
      {"a damaged line late", "a.jsonl", "{\"text\":\"a\"}\n{\"text\":\n", 0, ErrorCode::damaged},
      {"no training documents", "a.txt", "a\n", 1.0, ErrorCode::usage},
  };
  for (const Case& c : cases) {
    TestFolder folder;
    write_file_atomic(folder / c.file, c.text);
    Console console(true);
    ShardBuildOptions options = options_for(folder, c.file);
    options.validation_fraction = c.fraction;
    SCOPED_TRACE(c.name);
    expect_error(c.code, {}, [&] { build_shards(options, byte_encoder(), console); });
    EXPECT_EQ(bytes_of(folder.path()).size(), 1u) << c.name;  // the input alone
  }
}

TEST(BuildShards, AStopLeavesNothingBehind) {
  TestFolder folder;
  write_file_atomic(folder / "a.txt", many_lines());
  Console console(true);
  ShardBuildOptions options = options_for(folder, "a.txt");
  options.read.chunk_bytes = 100;
  int asked = 0;
  options.cancelled = [&] { return ++asked > 5; };
  expect_error(ErrorCode::interrupted, {}, [&] { build_shards(options, byte_encoder(), console); });
  EXPECT_EQ(bytes_of(folder.path()).size(), 1u);
}

}  // namespace
}  // namespace osp
