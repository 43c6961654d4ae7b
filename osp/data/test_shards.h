// For tests only: small sets of token shards.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "osp/base/test_folder.h"
#include "osp/data/shards_writer.h"

namespace osp {

// A set with 0, 1, 2, … modulo the vocabulary.
inline std::string write_set(const TestFolder& folder, const std::string& name, int64_t vocabulary,
                             int64_t count, uint64_t shard_tokens, int64_t end_of_document = -1) {
  ShardSetWriter writer(folder / name, {.vocabulary = vocabulary,
                                        .end_of_document = end_of_document,
                                        .shard_tokens = shard_tokens,
                                        .tokenizer_json = "{\"a\": 1}"});
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i % vocabulary);
  writer.append("train", ids, 1);
  writer.append("validation", std::span(ids).first(2), 1);
  writer.commit();
  return folder / name;
}

}  // namespace osp
