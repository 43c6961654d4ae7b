// Files in an object store (S3 and what speaks its protocol, Google Cloud Storage): the names below
// a URI, and their bytes. What is wrong with a store becomes an Error in one sentence; every
// request ends after a bounded time.
//
//   s3://BUCKET/KEY?region=us-east-1&endpoint_override=HOST:PORT&scheme=http
//   gs://BUCKET/KEY, gs://anonymous@BUCKET/KEY
//
// Arrow's file systems do the work; the part behind the question mark is theirs. Credentials come
// from the environment (AWS_ACCESS_KEY_ID …, GOOGLE_APPLICATION_CREDENTIALS), never from the URI,
// which is written into run folders and logs.
//
// Tested by osp/data/object_store_test.cpp and tests/python/test_object_stores.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "osp/data/text_reader_stream.h"

namespace osp {

// True for s3://… and gs://…
bool is_store_uri(const std::string& path);
// The path without its query: what the name of a file is looked up in.
std::string uri_without_query(const std::string& uri);
// The URI of `name` below `uri`: s3://b/tokens?q and x.u16 give s3://b/tokens/x.u16?q.
std::string join_uri(const std::string& uri, const std::string& name);

// A file below the URI of a store.
struct StoredFile {
  std::string name;  // relative to the URI; "" for the URI itself
  uint64_t num_bytes = 0;
};

class ObjectStore {
 public:
  // Error(usage) for a URI that cannot be one, Error(unsupported) if Arrow's plug-in for S3 is
  // missing. Asks the store only where the bucket's region must be looked up.
  explicit ObjectStore(const std::string& uri);
  ~ObjectStore();
  ObjectStore(ObjectStore&&) noexcept;
  ObjectStore& operator=(ObjectStore&&) noexcept;

  const std::string& uri() const { return uri_; }
  // All files below the URI, or the one at it, sorted by name. Error(usage) if there is no such
  // bucket, no such key, or no permission; Error(io) if the store does not answer.
  std::vector<StoredFile> list() const;
  // The bytes of a file in order, some pieces being fetched ahead. `num_bytes` is its size as
  // list() gave it; -1 asks the store. Errors as list()'s.
  std::unique_ptr<ByteStream> open(const std::string& name, int64_t num_bytes = -1) const;
  // A whole file; Error(damaged) if it is longer than `max_bytes`.
  std::string read(const std::string& name, size_t max_bytes) const;

 private:
  struct State;
  std::string uri_;
  std::unique_ptr<State> state_;
};

}  // namespace osp
