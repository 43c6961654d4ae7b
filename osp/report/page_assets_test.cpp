#include "osp/report/page_assets.h"

#include <gtest/gtest.h>

#include "osp/base/file.h"

namespace osp {
namespace {

TEST(PageAssets, TheEmbeddedTextsAreTheFilesByteForByte) {
  EXPECT_EQ(page_js(), read_file(OSP_SOURCE_DIR "/osp/report/page.js"));
  EXPECT_EQ(claims_json(), read_file(OSP_SOURCE_DIR "/osp/report/claims.json"));
  EXPECT_EQ(page_css(), read_file(OSP_SOURCE_DIR "/osp/report/page.css"));
}

}  // namespace
}  // namespace osp
