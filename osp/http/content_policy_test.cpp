#include "osp/http/content_policy.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

// The values of `openssl dgst -sha256 -binary | base64`.
TEST(ContentHash, IsTheSha256DigestInBase64) {
  EXPECT_EQ(content_hash(""), "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='");
  EXPECT_EQ(content_hash("abc"), "'sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0='");
}

}  // namespace
}  // namespace osp
