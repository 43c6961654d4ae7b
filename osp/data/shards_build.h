// From text files to a shard set: read, encode on several threads, write in order.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "osp/base/console.h"
#include "osp/data/shards.h"
#include "osp/data/text_reader.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

// The part of a tokenizer that the build needs.
struct TextEncoder {
  // Appends the ids of a text without special tokens of its own; called from several threads.
  std::function<void(std::string_view text, std::vector<int32_t>& ids)> append;
  int64_t vocabulary = 0;
  std::string json = {};  // stored beside the shards
};

TextEncoder text_encoder(const Tokenizer& tokenizer);  // refers to `tokenizer`

struct ShardBuildOptions {
  std::vector<TextInput> files = {};
  TextReadOptions read = {};
  std::string out = {};
  int num_threads = 1;
  uint64_t shard_tokens = 100'000'000;
  double validation_fraction = 0;
  int64_t begin_of_document = -1;  // put before every document; -1: nothing
  int64_t end_of_document = -1;    // put after every document; -1: nothing
  bool overwrite = false;
  std::function<bool()> cancelled = {};  // asked now and then; true: Error(interrupted)
};

struct ShardBuildReport {
  ShardIndex index;
  uint64_t text_bytes = 0;         // bytes of the documents that were encoded
  uint64_t dropped_documents = 0;  // null, empty, or nothing but white space
  double seconds = 0;
};

// Tokenizes all documents. The files written depend on the inputs and options but not on
// `num_threads`; at most 2 * num_threads + 2 chunks of about 1 MiB are in memory, or as many longer
// single documents. Error(damaged) if there is no text, Error(usage) if nothing is left to train
// on; on any error nothing is left at `out` that was not there before.
ShardBuildReport build_shards(const ShardBuildOptions& options, const TextEncoder& encoder,
                              Console& console);

}  // namespace osp
