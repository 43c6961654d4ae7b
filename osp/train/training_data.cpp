#include "osp/train/training_data.h"

#include <algorithm>
#include <utility>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/sha256.h"
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

void TrainingData::check(const Recipe& recipe) {
  for (const TokenDataset& set : train_sets) set.check_ids(recipe.model.vocabulary);
  // Names a source that is too small before there is a run.
  read_batch(train, batch_plan(recipe), 0, 0, 1, recipe.data.document_mask);
  if (validation) {
    for (const TokenDataset& set : validation_sets) set.check_ids(recipe.model.vocabulary);
    validation_slice = read_validation(recipe, *validation);
  }
  if (recipe.train.sample_every > 0 && !tokenizer) {
    fail(ErrorCode::usage,
         "train.sample_every needs a tokenizer, and the data at {} has none: set it to 0",
         sources_of(recipe.data)[0].path);
  }
}

bool data_exists(const DataConfig& config) {
  return std::ranges::all_of(sources_of(config),
                             [](const DataSource& source) { return path_exists(source.path); });
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
  }
  return text;
}

}  // namespace osp
