#include "osp/train/agreement.h"

#include <fmt/ranges.h>
#include <torch/headeronly/version.h>

#include <functional>
#include <optional>
#include <random>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json_text.h"
#include "osp/base/patience.h"
#include "osp/base/range_writer.h"
#include "osp/base/sha256.h"
#include "osp/base/version.h"
#include "osp/optim/optimizers.h"
#include "osp/ranks/all_do.h"
#include "osp/train/checkpoint.h"

namespace osp {
void check_ranks(int64_t ranks, const Recipe& recipe, const Routing& routing) {
  if (ranks == 1) return;
  const TrainConfig& train = recipe.train;
  if (train.exact_ranks && ranks > train.reduction_groups) {
    fail(
        ErrorCode::usage,
        "{} ranks do not fit train.reduction_groups = {}, as each needs a group: start at most {}, "
        "or a new run with more groups, or one with train.exact_ranks = false",
        ranks, train.reduction_groups, train.reduction_groups);
  }
  if (const int64_t sequences = sequences_per_step(recipe); ranks > sequences) {
    fail(
        ErrorCode::usage,
        "{} ranks, but a step has {} sequences (train.batch_tokens / model.context), and each rank "
        "needs one",
        ranks, sequences);
  }
  for (const OptimizerGroup& group : routing.groups) {
    if (group.optimizer->division != Division::none) continue;
    fail(ErrorCode::usage,
         "the optimizer {} cannot train with several ranks: start one, or choose {} "
         "(optim.name, optim.routes)",
         group.optimizer->title, divisible_names());
  }
}

void check_agreement(const Ranks& ranks, const Recipe& recipe, const std::string& data_fingerprint,
                     const StartingWeights& start) {
  if (ranks.alone()) return;
  const TrainConfig& train = recipe.train;
  const std::vector<std::string> differences = disagreements(
      ranks.patient(kPatience_s),
      {{"program", fmt::format("osp {}, PyTorch {}", kVersion, TORCH_VERSION)},
       {"recipe", recipe_hash(recipe)},
       {"data", data_fingerprint},
       {"starting weights", start.from.empty()
                                ? "initialised"
                                : start.from + (start.with_optimizer ? " with optimizer" : "")},
       {"number of ranks", std::to_string(ranks.size())},
       // What decides which ranks meet when, but no result.
       {"device and checkpoints",
        fmt::format(
            "train.device = {}, checkpoint_every = {}, background_save = {}, bucket_mb = {}",
            train.device, train.checkpoint_every, train.background_save, train.bucket_mb)}});
  if (differences.empty()) return;
  // All ranks are here: those whose recipe is another one say in which fields.
  const std::string first = ranks.text_of_first(
      ranks.is_first() ? json_text(recipe_json(recipe)) : std::string(), kPatience_s);
  const std::string fields = recipe_differences(Json::parse(first), recipe);
  fail(ErrorCode::usage,
       "the ranks disagree in {}{}; start all of them with the same program, recipe and data",
       fmt::join(differences, ", "),
       fields.empty() ? std::string() : fmt::format(": {}, where \"there\" is rank 0", fields));
}

RunFolder open_folder_of_first(const Ranks& ranks, const std::string& path, StartingWeights& start,
                               const std::function<RunFolder()>& open) {
  if (ranks.alone()) return open();
  RunFolder folder{.path = path, .lock = nullptr, .checkpoint = {}, .steps_before = 0};
  std::optional<Error> failure;
  Json said;
  if (ranks.is_first()) {
    try {
      folder = open();
      said = {{"step", folder.checkpoint.step},
              {"init_from", start.from},
              {"with_optimizer", start.with_optimizer}};
    } catch (const Error& error) {
      failure = error;
      said = {{"error", error.what()}, {"code", static_cast<int>(error.code())}};
    }
  }
  // What the first rank says is what it did, or why it could not.
  const auto replace = Json::error_handler_t::replace;
  const Json heard =
      Json::parse(ranks.text_of_first(said.dump(-1, ' ', false, replace), kPatience_s));
  if (failure) throw Error(*failure);
  if (heard.contains("error")) {
    throw Error(static_cast<ErrorCode>(heard["code"].get<int>()),
                heard["error"].get<std::string>());
  }
  folder.checkpoint.step = heard["step"].get<int64_t>();
  start = {heard["init_from"].get<std::string>(), heard["with_optimizer"].get<bool>()};
  return folder;
}

void check_folder_is_shared(const Ranks& ranks, const std::string& run) {
  if (ranks.alone()) return;
  const std::string proof = run + "/" + kSharingProof;
  const Ranks patient = ranks.patient(kPatience_s);
  all_do(patient, [&]() -> Json {
    if (ranks.is_first()) write_file_durable(proof, "");
    return {};
  });
  // Write, and read what all have written.
  std::random_device random;
  const std::string number = fmt::format("{:08x}{:08x}", random(), random());
  const std::vector<Json> written = all_do(patient, [&]() -> Json {
    const bool found = comes_true([&] { return path_exists(proof); });
    if (found) {
      RangeWriter writer(proof);
      writer.write(static_cast<uint64_t>(ranks.rank()) * number.size(), number.data(),
                   number.size());
      writer.close();
    }
    return {{"number", number}, {"found", found}};
  });
  std::string expected;
  for (const Json& one : written) expected += one["number"].get<std::string>();
  const std::vector<Json> seen = all_do(patient, [&]() -> Json {
    return comes_true([&] { return path_exists(proof) && read_file(proof) == expected; });
  });
  if (ranks.is_first()) remove_tree(proof);
  // Who did not find the file at all is to blame for what the others do not see.
  const auto refuse_first_without = [&](const auto& is_well) {
    for (size_t rank = 0; rank < seen.size(); ++rank) {
      if (is_well(rank)) continue;
      fail(ErrorCode::usage,
           "{}: rank {} does not see there what the others write; the run folder must be the same "
           "for all ranks, on a file system that their machines share",
           run, rank);
    }
  };
  refuse_first_without([&](size_t rank) { return written[rank]["found"].get<bool>(); });
  refuse_first_without([&](size_t rank) { return seen[rank].get<bool>(); });
}

void check_shared(const Ranks& ranks, const std::string& checkpoint) {
  if (ranks.alone()) return;
  const std::string manifest = checkpoint + "/manifest.json";
  const std::string seen = path_exists(manifest) ? sha256_hex(read_file(manifest)) : "missing";
  const std::vector<std::string> differences =
      disagreements(ranks.patient(kPatience_s), {{"manifest.json", seen}});
  if (differences.empty()) return;
  fail(ErrorCode::usage,
       "{}: the ranks see different files there: {}; the run folder must be the same for all "
       "ranks, on a file system that their machines share",
       checkpoint, differences.front());
}

}  // namespace osp
