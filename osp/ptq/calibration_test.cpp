#include "osp/ptq/calibration.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/test_folder.h"
#include "osp/ptq/python_random.h"

namespace osp {
namespace {

// Byte-level tokenizer of the 256 bytes and nothing else would need a file; one of words does.
constexpr const char* kTokenizer = R"({"version":"1.0","added_tokens":[],"normalizer":null,
  "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
  "post_processor":null,"decoder":{"type":"ByteLevel"},
  "model":{"type":"BPE","vocab":{"a":0,"b":1,"Ċ":2,"Ġ":3},"merges":[]}})";

std::string message_of(const std::string& source, const std::string& dir,
                       const CalibrationOptions& options, int64_t vocabulary = 4) {
  try {
    read_calibration(source, dir, 64, vocabulary, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(PythonRandom, GivesTheNumbersOfPython) {
  // [random.Random(0).randint(0, 99) for _ in range(8)] and the like, CPython 3.11.
  PythonRandom zero(0);
  for (const int64_t wanted : {49, 97, 53, 5, 33, 65, 62, 51}) {
    EXPECT_EQ(zero.randint(0, 99), wanted);
  }
  PythonRandom large(123456789012345);
  for (const int64_t wanted :
       std::initializer_list<int64_t>{924796, 1226110, 1720685, 943051, 2201293})
    EXPECT_EQ(large.randint(0, 2400000), wanted);
}

TEST(Calibration, WindowsAreDrawnFromTheWholeTextAndDependOnTheSeed) {
  const auto starts = [](uint64_t seed, bool reference) {
    return window_starts(5000, 100, {.windows = 200, .seed = seed, .reference_starts = reference});
  };
  for (const bool reference : {true, false}) {
    const std::vector<int64_t> first = starts(0, reference);
    EXPECT_EQ(first, starts(0, reference));
    EXPECT_NE(first, starts(1, reference));
    EXPECT_GE(*std::min_element(first.begin(), first.end()), 0);
    EXPECT_LT(*std::min_element(first.begin(), first.end()), 200);
    EXPECT_GT(*std::max_element(first.begin(), first.end()), 4700);
    EXPECT_LE(*std::max_element(first.begin(), first.end()), 4900);
  }
  EXPECT_EQ(window_starts(100, 100, {.windows = 3}), (std::vector<int64_t>{0, 0, 0}));
  EXPECT_EQ(window_starts(100, 100, {.windows = 2, .reference_starts = true}),
            (std::vector<int64_t>{0, 0}));
}

TEST(Calibration, ReadsTextAndJoinsDocumentsByBlankLines) {
  const TestFolder folder;
  write_file_atomic(folder / "tokenizer.json", kTokenizer);
  write_file_atomic(folder / "text.txt", "ab ab ab");
  const Calibration text =
      read_calibration(folder / "text.txt", folder.path(), 64, 4, {.windows = 2, .length = 8});
  EXPECT_EQ(text.num_tokens, 8);
  EXPECT_EQ(text.windows_NT.sizes(), (std::vector<int64_t>{2, 8}));
  EXPECT_EQ(text.windows_NT[1][2].item<int64_t>(), 3);
  write_file_atomic(folder / "text.jsonl",
                    "{\"text\": \"ab\"}\n{\"text\": null}\n{\"text\": \"ba\"}\n");
  const Calibration lines =
      read_calibration(folder / "text.jsonl", folder.path(), 64, 4, {.windows = 1, .length = 6});
  const std::vector<int64_t> wanted = {0, 1, 2, 2, 1, 0};
  for (int64_t i = 0; i < 6; ++i) {
    EXPECT_EQ(lines.windows_NT[0][i].item<int64_t>(), wanted[static_cast<size_t>(i)]) << i;
  }
}

TEST(Calibration, SaysWhatIsMissing) {
  const TestFolder folder;
  write_file_atomic(folder / "text.txt", "ab ab ab");
  EXPECT_NE(message_of(folder / "text.txt", folder.path(), {}).find("no tokenizer"),
            std::string::npos);
  write_file_atomic(folder / "tokenizer.json", kTokenizer);
  EXPECT_NE(message_of(folder / "absent.txt", folder.path(), {}).find("no such file"),
            std::string::npos);
  // The window is the smaller of --length and the trained context, 64.
  const std::string shorter = message_of(folder / "text.txt", folder.path(), {});
  EXPECT_NE(shorter.find("8 tokens, 56 fewer than one calibration window of 64"), std::string::npos)
      << shorter;
  EXPECT_NE(message_of(folder / "text.txt", folder.path(), {.length = 4}, 2).find("vocabulary"),
            std::string::npos);
}

}  // namespace
}  // namespace osp
