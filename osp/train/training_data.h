// The data of a run: the corpora of its recipe, opened, checked and mixed.
//
// Tested by osp/train/training_data_test.cpp and tests/python/test_mixture.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/data/batch.h"
#include "osp/data/mixture.h"
#include "osp/tokenizer/tokenizer.h"
#include "osp/train/config.h"

namespace osp {

// Neither copied nor assigned: the mixtures refer to the data sets.
struct TrainingData {
  // Opens the train split of each source, and with_validation the other. Error(usage) that names
  // the sources for those of different tokenizers; further errors of TokenDataset and Mixture.
  TrainingData(const DataConfig& config, bool with_validation);
  TrainingData(TrainingData&&) = delete;

  std::vector<TokenDataset> train_sets, validation_sets;  // by source
  Mixture train;
  std::optional<Mixture> validation;
  std::optional<Tokenizer> tokenizer;
  Batch validation_slice;  // after check(), with `validation`

  const TokenDataset& first() const { return train_sets.front(); }
  int64_t vocabulary() const { return first().vocabulary(); }
  std::string tokenizer_json() const { return first().tokenizer_json(); }
  uint64_t num_bytes() const;
  // Identifies all tokens, and their order.
  std::string fingerprint() const;

  // Looks at all ids, and reads the validation slice. Error(usage) for a source that is too small
  // for the recipe's context, samples without a tokenizer, or a cache (osp/data/object_cache.h)
  // that holds less than is shuffled together; Error(damaged) from TokenDataset::check_ids(). With
  // fetch = false nothing is fetched from object stores: there is no validation slice then.
  void check(const Recipe& recipe, bool fetch = true);
};

// True if the folders of all sources exist; one in an object store counts as existing until it is
// asked for.
bool data_exists(const DataConfig& config);

// Per source: name, path, its tokens, share of the sequences, and the tokens and epochs that a run
// of `recipe` (resolved) takes of it; of one in an object store, how many bytes of its shards are
// to be fetched.
Json describe_sources(const TrainingData& data, const Recipe& recipe);
// describe_sources() as lines of text, one per source.
std::string sources_text(const Json& sources);

}  // namespace osp
