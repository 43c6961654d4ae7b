#include "osp/train/training_data.h"

#include <algorithm>
#include <utility>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/sha256.h"
#include "osp/data/object_cache.h"
#include "osp/data/object_store.h"
#include "osp/train/step.h"
#include "osp/train/validation.h"

namespace osp {
namespace {

std::vector<TokenDataset> open_sets(const DataConfig& config, const std::string& split) {
  std::vector<TokenDataset> sets;
  for (const DataSource& source : sources_of(config)) {
    sets.push_back(TokenDataset::open(source.path, split, config.verify));
  }
  return sets;
}

Mixture mixture_of(const DataConfig& config, const std::vector<TokenDataset>& sets) {
  const std::vector<DataSource> sources = sources_of(config);
  std::vector<MixtureSource> mixed;
  for (size_t k = 0; k < sets.size(); ++k) {
    mixed.push_back({sources[k].name, &sets[k], sources[k].weight});
  }
  return Mixture(std::move(mixed));
}

// Ids mean the same in all sources, as far as they say.
void check_tokenizers(const DataConfig& config, const std::vector<TokenDataset>& sets) {
  const std::vector<DataSource> sources = sources_of(config);
  for (size_t k = 1; k < sets.size(); ++k) {
    std::string what;
    if (sets[k].tokenizer_json() != sets[0].tokenizer_json()) {
      what = sets[k].tokenizer_json().empty() || sets[0].tokenizer_json().empty()
                 ? "one has a tokenizer.json, the other not"
                 : "tokenizer.json differs";
    } else if (sets[k].vocabulary() != sets[0].vocabulary()) {
      what = fmt::format("vocabularies of {} and {}", sets[0].vocabulary(), sets[k].vocabulary());
    } else if (sets[k].end_of_document() != sets[0].end_of_document()) {
      what = fmt::format("end-of-document tokens {} and {}", sets[0].end_of_document(),
                         sets[k].end_of_document());
    }
    if (what.empty()) continue;
    fail(ErrorCode::usage,
         "data.source {} ({}) and {} ({}) were not tokenized alike: {}; tokenize them with one "
         "tokenizer",
         sources[0].name, sources[0].path, sources[k].name, sources[k].path, what);
  }
}

// Bytes of the shards that are in use at the same time: those of a block and of the next, or all.
uint64_t bytes_in_use(const TokenDataset& data, const BatchPlan& plan) {
  uint64_t largest = 0;
  for (size_t shard = 0; shard < data.num_shards(); ++shard) {
    largest = std::max(largest, data.shard_bytes(shard));
  }
  const double of_block =
      static_cast<double>(plan.block_windows) * static_cast<double>(plan.context) *
      static_cast<double>(data.num_bytes()) / static_cast<double>(data.num_tokens());
  const double of_all = static_cast<double>(data.num_bytes());
  if (plan.block_windows == 0) return data.num_bytes();
  return static_cast<uint64_t>(std::min(of_all, of_block + 2 * static_cast<double>(largest)));
}

// A cache that is too small would fetch the same shards again and again.
void check_cache(const std::vector<TokenDataset>& sets, const BatchPlan& plan) {
  uint64_t needed = 0;
  CacheOptions limit;
  for (const TokenDataset& set : sets) {
    if (!set.is_stored()) continue;
    needed += bytes_in_use(set, plan);
    limit = set.cache_limit();
  }
  if (needed <= limit.max_bytes) return;
  fail(ErrorCode::usage,
       "training takes its sequences from {} of shards at a time, and the cache at {} may hold {}: "
       "raise {}, or set data.shuffle_tokens, so that fewer shards are in use at a time",
       format_bytes(static_cast<double>(needed)), limit.folder,
       format_bytes(static_cast<double>(limit.max_bytes)), kCacheSizeVariable);
}

}  // namespace

TrainingData::TrainingData(const DataConfig& config, bool with_validation)
    : train_sets(open_sets(config, "train")),
      validation_sets(with_validation ? open_sets(config, "validation")
                                      : std::vector<TokenDataset>()),
      train(mixture_of(config, train_sets)) {
  check_tokenizers(config, train_sets);
  if (with_validation) validation.emplace(mixture_of(config, validation_sets));
  const std::string json = tokenizer_json();
  if (!json.empty()) {
    tokenizer.emplace(Tokenizer::from_json(json, sources_of(config)[0].path + "/tokenizer.json"));
  }
}

uint64_t TrainingData::num_bytes() const {
  uint64_t bytes = 0;
  for (const TokenDataset& set : train_sets) bytes += set.num_bytes();
  return bytes;
}

std::string TrainingData::fingerprint() const {
  if (train_sets.size() == 1) return first().fingerprint();
  std::string all;
  for (const TokenDataset& set : train_sets) all += set.fingerprint() + "\n";
  return sha256_hex(all);
}

void TrainingData::check(const Recipe& recipe, bool fetch) {
  const BatchPlan plan = batch_plan(recipe);
  const auto is_stored = [](const TokenDataset& set) { return set.is_stored(); };
  const bool any_stored = std::ranges::any_of(train_sets, is_stored);
  for (const TokenDataset& set : train_sets) set.check_ids(recipe.model.vocabulary);
  // Names a source that is too small before there is a run.
  check_sources(train, plan, recipe.data.document_mask);
  check_cache(train_sets, plan);
  if (validation) {
    for (const TokenDataset& set : validation_sets) set.check_ids(recipe.model.vocabulary);
    if (fetch || !any_stored) validation_slice = read_validation(recipe, *validation);
  }
  // A store that gives no shard is met before there is a run.
  if (fetch && any_stored) read_batch(train, plan, 0, 0, 1, recipe.data.document_mask);
  if (recipe.train.sample_every > 0 && !tokenizer) {
    fail(ErrorCode::usage,
         "train.sample_every needs a tokenizer, and the data at {} has none: set it to 0",
         sources_of(recipe.data)[0].path);
  }
}

bool data_exists(const DataConfig& config) {
  return std::ranges::all_of(sources_of(config), [](const DataSource& source) {
    return is_store_uri(source.path) || path_exists(source.path);
  });
}

Json describe_sources(const TrainingData& data, const Recipe& recipe) {
  const std::vector<DataSource> sources = sources_of(recipe.data);
  std::vector<uint64_t> taken;
  data.train.count(
      0,
      static_cast<uint64_t>(recipe.train.steps) * static_cast<uint64_t>(sequences_per_step(recipe)),
      static_cast<uint64_t>(recipe.run.seed), taken);
  Json described = Json::array();
  for (size_t k = 0; k < sources.size(); ++k) {
    const auto windows = static_cast<double>(num_windows(data.train_sets[k], recipe.model.context));
    described.push_back(
        {{"name", sources[k].name},
         {"path", sources[k].path},
         {"tokens", data.train_sets[k].num_tokens()},
         {"share", data.train.share(k)},
         {"tokens_taken", taken[k] * static_cast<uint64_t>(recipe.model.context)},
         {"epochs", windows > 0 ? Json(static_cast<double>(taken[k]) / windows) : Json()}});
    if (!data.train_sets[k].is_stored()) continue;
    StoredState stored = data.train_sets[k].stored_state();
    if (!data.validation_sets.empty()) {
      const StoredState held_out = data.validation_sets[k].stored_state();
      stored.shards += held_out.shards;
      stored.num_bytes += held_out.num_bytes;
      stored.shards_here += held_out.shards_here;
      stored.bytes_here += held_out.bytes_here;
    }
    described.back()["stored"] = {{"shards", stored.shards},
                                  {"bytes", stored.num_bytes},
                                  {"shards_to_fetch", stored.shards - stored.shards_here},
                                  {"bytes_to_fetch", stored.num_bytes - stored.bytes_here},
                                  {"cache", data.train_sets[k].cache_limit().folder}};
  }
  return described;
}

std::string sources_text(const Json& sources) {
  std::string text;
  for (const Json& source : sources) {
    const std::string name = source["name"].get<std::string>();
    const std::string epochs =
        source["epochs"].is_null() ? "no" : fmt::format("{:.3g}", source["epochs"].get<double>());
    text += fmt::format("{:<20}{} tokens of {}, {} epochs{}\n", text.empty() ? "data" : "",
                        format_count(source["tokens_taken"].get<int64_t>()),
                        format_count(source["tokens"].get<int64_t>()), epochs,
                        name.empty() ? ""
                                     : fmt::format(" ({}, {:.1f} % of the sequences)", name,
                                                   100 * source["share"].get<double>()));
    if (!source.contains("stored")) continue;
    const Json& stored = source["stored"];
    text += fmt::format("{:<20}{} of {} shards, {} of {}, into {}\n", "to fetch",
                        stored["shards_to_fetch"].get<int64_t>(), stored["shards"].get<int64_t>(),
                        format_bytes(stored["bytes_to_fetch"].get<double>()),
                        format_bytes(stored["bytes"].get<double>()),
                        stored["cache"].get<std::string>());
  }
  return text;
}

}  // namespace osp
