// Models in several files. tests/python/test_gguf_split.py compares them with the package gguf.
#include "osp/formats/gguf_split.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>

#include "osp/base/file.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

GgufTensorEntry constant(const std::string& name, int64_t count, int value) {
  return {name, GgufTensorType::f32, {count}, [value](std::span<std::byte> blocks) {
            std::fill(blocks.begin(), blocks.end(), static_cast<std::byte>(value));
          }};
}

std::vector<GgufTensorEntry> three() {
  return {constant("a", 8, 1), constant("b", 8, 2), constant("c", 16, 3)};
}

std::vector<std::string> write(const TestFolder& folder, uint64_t bytes) {
  GgufMetadataWriter metadata;
  metadata.text("general.architecture", "llama");
  return write_gguf_parts(folder / "m.gguf", metadata, three(), bytes);
}

TEST(GgufSplit, AModelsNameIsThatOfItsFileOrOfAnyPart) {
  for (const char* file :
       {"m-7B.5.gguf", "m-7B.5-00001-of-00003.gguf", "m-7B.5-99999-of-00003.gguf"}) {
    EXPECT_EQ(gguf_model_name(file), "m-7B.5");
  }
  EXPECT_EQ(gguf_model_name("m-0001-of-00003.gguf"), "m-0001-of-00003");  // four digits are none
  EXPECT_EQ(gguf_model_name("m-00001-of-0000x.gguf"), "m-00001-of-0000x");
  EXPECT_EQ(gguf_model_name("-00001-of-00003"), "-00001-of-00003");
  EXPECT_EQ(gguf_model_name(".gguf"), "");
}

TEST(GgufSplit, PartsHaveAsManyTensorsAsFitAndAreReadAsOne) {
  const TestFolder folder;
  const std::vector<std::string> files = write(folder, 64);
  EXPECT_EQ(files, (std::vector<std::string>{folder / "m-00001-of-00002.gguf",
                                             folder / "m-00002-of-00002.gguf"}));
  for (const std::string& path : files) {
    const GgufFile file = GgufFile::open(path);
    EXPECT_EQ(file.metadata().text("general.architecture"), "llama");
    ASSERT_EQ(file.tensors().size(), 3u);
    EXPECT_EQ(file.tensors().at("c").data.size(), 64u);
    EXPECT_EQ(file.tensors().at("b").data.front(), std::byte{2});
  }
}

TEST(GgufSplit, ATensorThatIsLargerThanAPartHasOneOfItsOwn) {
  const TestFolder folder;
  EXPECT_EQ(write(folder, 40).size(), 3u);
  EXPECT_EQ(GgufFile::open(folder / "m-00003-of-00003.gguf").tensors().size(), 3u);
}

TEST(GgufSplit, OneFileWhereAllFitsKeepsItsName) {
  const TestFolder folder;
  EXPECT_EQ(write(folder, 0), std::vector<std::string>{folder / "m.gguf"});
  EXPECT_EQ(GgufFile::open(folder / "m.gguf").tensors().size(), 3u);
  EXPECT_FALSE(GgufFile::open(folder / "m.gguf").metadata().has("split.count"));
}

TEST(GgufSplit, AMissingPartAndAStrangeNameAreRefusedByName) {
  const TestFolder folder;
  const std::vector<std::string> files = write(folder, 64);
  std::filesystem::copy(files[0], folder / "other.gguf");
  expect_error(ErrorCode::damaged, {"other.gguf", "rename the parts"},
               [&] { GgufFile::open(folder / "other.gguf"); });
  std::filesystem::remove(files[1]);
  expect_error(ErrorCode::damaged, {"m-00002-of-00002.gguf: is missing", "one of 2 parts"},
               [&] { GgufFile::open(files[0]); });
}

TEST(GgufSplit, AnErrorLeavesNoPart) {
  const TestFolder folder;
  std::vector<GgufTensorEntry> tensors = three();
  tensors[0].fill = [](std::span<std::byte>) { throw std::runtime_error("no more"); };
  EXPECT_THROW(write_gguf_parts(folder / "m.gguf", {}, tensors, 32), std::runtime_error);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(GgufSplit, PathsOfPartsAreFoundFromAnyOfThem) {
  EXPECT_EQ(gguf_part_path("x/m.gguf", 2, 12), "x/m-00002-of-00012.gguf");
  EXPECT_EQ(gguf_part_paths("x/m-00002-of-00002.gguf", 2).front(), "x/m-00001-of-00002.gguf");
  expect_error(ErrorCode::damaged, {"split.count is 3"},
               [] { gguf_part_paths("x/m-00002-of-00002.gguf", 3); });
  expect_error(ErrorCode::damaged, {"rename"}, [] { gguf_part_paths("m", 2); });
}

}  // namespace
}  // namespace osp
