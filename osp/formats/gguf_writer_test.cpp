// The writer against the reader; tests/python/test_gguf_export.py reads its files with the package.
#include "osp/formats/gguf_writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>

#include "osp/base/test_folder.h"
#include "osp/formats/gguf.h"

namespace osp {
namespace {

// A tensor whose bytes are all `value`.
GgufTensorEntry constant(const std::string& name, GgufTensorType type, std::vector<int64_t> shape,
                         int value) {
  return {name, type, std::move(shape), [value](std::span<std::byte> blocks) {
            std::fill(blocks.begin(), blocks.end(), static_cast<std::byte>(value));
          }};
}

TEST(GgufWriter, ReaderGetsBackWhatWasWritten) {
  GgufMetadataWriter metadata;
  metadata.text("general.name", "größe");
  metadata.u32("count", 7);
  metadata.f32("eps", 1e-5f);
  metadata.flag("yes", true);
  metadata.texts("words", {"a", "", "bc"});
  metadata.i32s("types", {-1, 3});
  metadata.f32s("scores", {0.5f, -2.0f});
  const TestFolder folder;
  write_gguf(folder / "m.gguf", metadata,
             {constant("one", GgufTensorType::f32, {3}, 1),
              constant("blocks", GgufTensorType::q8_0, {2, 64}, 2),
              constant("scalar", GgufTensorType::f16, {}, 3)});
  const GgufFile file = GgufFile::open(folder / "m.gguf");
  EXPECT_EQ(file.metadata().values().size(), 7u);
  EXPECT_EQ(file.metadata().text("general.name"), "größe");
  EXPECT_EQ(file.metadata().integer("count"), 7);
  EXPECT_EQ(file.metadata().number("eps"), 1e-5f);
  EXPECT_TRUE(file.metadata().flag("yes"));
  EXPECT_EQ(file.metadata().texts("words"), (std::vector<std::string_view>{"a", "", "bc"}));
  EXPECT_EQ(file.metadata().integers("types"), (std::vector<int64_t>{-1, 3}));
  EXPECT_EQ(file.metadata().numbers("scores"), (std::vector<double>{0.5, -2}));
  const GgufTensor& blocks = file.tensors().at("blocks");
  EXPECT_EQ(blocks.shape, (std::vector<int64_t>{2, 64}));
  EXPECT_EQ(blocks.data.size(), 2u * 2 * 34);
  EXPECT_EQ(blocks.data.back(), std::byte{2});
  EXPECT_EQ(file.tensors().at("scalar").data.front(), std::byte{3});
}

TEST(GgufWriter, BrokenInvariantsAreOurs) {
  GgufMetadataWriter metadata;
  metadata.u32("a", 1);
  EXPECT_THROW(metadata.flag("a", true), std::logic_error);
  const TestFolder folder;
  const auto one = constant("t", GgufTensorType::f32, {1}, 0);
  EXPECT_THROW(write_gguf(folder / "m", metadata, {one, one}), std::logic_error);
  EXPECT_THROW(write_gguf(folder / "m", metadata,
                          {constant(std::string(64, 'n'), GgufTensorType::f32, {1}, 0)}),
               std::logic_error);
  EXPECT_THROW(write_gguf(folder / "m", metadata, {constant("t", GgufTensorType::q8_0, {16}, 0)}),
               std::logic_error);
}

}  // namespace
}  // namespace osp
