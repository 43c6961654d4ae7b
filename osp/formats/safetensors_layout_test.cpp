#include "osp/formats/safetensors_layout.h"

#include <gtest/gtest.h>

#include <span>

#include "osp/base/file.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

TEST(SafetensorsLayout, APartAtItsOffsetGivesTheFileThatTheWriterWrites) {
  const TestFolder folder;
  const std::string text = "abcdefgh";
  const auto bytes = std::as_bytes(std::span(text));
  const std::vector<TensorEntry> entries = {{"x", "U8", {3}, bytes.first(3)},
                                            {"none", "F32", {0, 7}, {}},
                                            {"y", "F32", {1}, bytes.subspan(3, 4)}};
  write_safetensors(folder / "whole", entries, {{"format", "pt"}}, 64);
  std::vector<TensorEntry> without_data = entries;
  for (TensorEntry& entry : without_data) entry.data = {};
  const SafetensorsLayout layout =
      safetensors_layout("parts", without_data, {{"format", "pt"}}, 64);
  const std::string whole = read_file(folder / "whole");
  ASSERT_EQ(layout.file_bytes, whole.size());
  ASSERT_EQ(layout.offsets.size(), 3u);
  EXPECT_EQ(layout.head, whole.substr(0, layout.offsets[0]));
  EXPECT_EQ(layout.offsets[0] % 64, 0u);
  EXPECT_EQ(whole.substr(layout.offsets[0], 3), "abc");
  EXPECT_EQ(layout.offsets[1], layout.offsets[0] + 3);
  EXPECT_EQ(whole.substr(layout.offsets[2], 4), "defg");
}

}  // namespace
}  // namespace osp
