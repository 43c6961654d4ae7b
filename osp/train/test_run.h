// For tests only: tiny recipes and shards on which a run takes a second.
#pragma once

#include <string>
#include <vector>

#include "osp/base/philox.h"
#include "osp/base/test_folder.h"
#include "osp/data/dataset.h"
#include "osp/data/shards_writer.h"
#include "osp/train/config.h"

namespace osp {

// Shards with a text that can be learned: runs of growing ids with random jumps; documents of 50.
inline void write_test_shards(const std::string& path) {
  constexpr int64_t kVocabulary = 64;
  ShardSetWriter writer(path, {.vocabulary = kVocabulary, .end_of_document = 0});
  const RandomStream random(7, "test tokens");
  for (const char* split : {"train", "validation"}) {
    const size_t count = split[0] == 't' ? 4000 : 600;
    std::vector<int32_t> ids;
    uint64_t id = 1;
    for (size_t i = 0; i < count; ++i) {
      id =
          i % 50 == 49 ? 0 : 1 + (random.below(i, 10) == 0 ? random.below(i + count, 63) : id) % 63;
      ids.push_back(static_cast<int32_t>(id));
    }
    writer.append(split, ids, count / 50);
  }
  writer.commit();
}

// One layer of width 32 in fp32, 4 sequences of 16 tokens a step.
inline Recipe test_recipe(const std::string& shards, const std::string& optimizer = "osp") {
  Recipe recipe;
  recipe.data.path = shards;
  recipe.model.layers = 1;
  recipe.model.width = 32;
  recipe.model.heads = 2;
  recipe.model.inner = 64;
  recipe.model.context = 16;
  recipe.model.norm = optimizer == "adam" ? "rms" : "single-scale";
  recipe.model.embedding_projection = optimizer != "adam";
  recipe.optim.name = optimizer;
  recipe.schedule.warmup_steps = 2;
  recipe.train.steps = 6;
  recipe.train.batch_tokens = 64;
  recipe.train.precision = "fp32";
  recipe.train.log_every = 1;
  recipe.train.peak_tflops = 1;
  recipe.train.validate_every = 3;
  recipe.train.validation_tokens = 64;
  recipe.train.checkpoint_every = 1;
  recipe.train.keep_checkpoints = 100;
  return recipe;
}

// `recipe` with an Outlier Protected model.
inline Recipe outlier_protected(Recipe recipe) {
  recipe.model.norm = "none";
  recipe.model.qk_norm = recipe.model.embedding_norm = recipe.model.branch_scale = true;
  return recipe;
}

inline Recipe resolved_test_recipe(const std::string& shards,
                                   const std::string& optimizer = "osp") {
  return resolved_recipe(test_recipe(shards, optimizer), 64);
}

}  // namespace osp
