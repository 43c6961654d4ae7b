// URIs of object stores. What the stores answer is tested by tests/python/test_object_stores.py.
#include "osp/data/object_store.h"

#include <gtest/gtest.h>

#include "osp/base/test_error.h"

namespace osp {
namespace {

TEST(StoreUri, NamesAreJoinedBeforeTheQuery) {
  EXPECT_TRUE(is_store_uri("s3://b/x") && is_store_uri("gs://b/x"));
  EXPECT_FALSE(is_store_uri("/s3://b") || is_store_uri("s3/b") || is_store_uri("https://b"));
  EXPECT_EQ(join_uri("s3://b/tokens/?region=x", "a.u16"), "s3://b/tokens/a.u16?region=x");
  EXPECT_EQ(join_uri("gs://b", "a"), "gs://b/a");
  EXPECT_EQ(join_uri("s3://", ""), "s3://");
  EXPECT_EQ(uri_without_query("s3://b/a.txt?x=/y"), "s3://b/a.txt");
  EXPECT_EQ(uri_without_query("what?.txt"), "what?.txt");
}

TEST(StoreUri, ASecretIsRefusedAndNotRepeated) {
  const std::string message =
      message_of(ErrorCode::usage, [] { ObjectStore("s3://key:word@b/x"); });
  EXPECT_NE(message.find("AWS_ACCESS_KEY_ID"), std::string::npos) << message;
  EXPECT_EQ(message.find("word"), std::string::npos) << message;
  expect_error(ErrorCode::usage, {"names no bucket"}, [] { ObjectStore("gs://"); });
}

}  // namespace
}  // namespace osp
