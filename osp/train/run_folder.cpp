#include "osp/train/run_folder.h"

#include <ATen/Parallel.h>
#include <fmt/ranges.h>
#include <torch/headeronly/version.h>

#include <charconv>
#include <filesystem>
#include <set>
#include <system_error>

#include "osp/base/error.h"
#include "osp/base/json_text.h"

namespace osp {
namespace {

constexpr const char* kStartFile = "start.json";

void check_recipe(const std::string& run, const Json& before, const Recipe& recipe) {
  const std::string differences = recipe_differences(before, recipe);
  if (differences.empty()) return;
  fail(ErrorCode::usage,
       "{}: is the run of another recipe; it differs in {}: use the recipe that it was started "
       "with, "
       "or choose another folder with --out",
       run, differences);
}

// The first entry of a folder that belongs to a run, "" without any. The lock alone is none: a
// start that was refused leaves it.
std::string trace_of_run(const std::string& path) {
  std::set<std::string> names;  // sorted: the same answer every time
  std::error_code error;
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    names.insert(it->path().filename().string());
  }
  if (error) fail(ErrorCode::io, "{}: cannot list: {}", path, error.message());
  for (const std::string& name : names) {
    const bool whole =
        name == "metrics.jsonl" || name == "model" || name == "recipe.json" || name == "start.json";
    if (whole || name.starts_with("events.out.tfevents.") || name.starts_with("step-")) return name;
  }
  return "";
}

// The recipe of the run in a folder: recipe.json, or where that was lost the first line of the log,
// or that of a checkpoint.
Json recipe_of_run(const std::string& path) {
  const std::string recipe = path + "/recipe.json";
  if (path_exists(recipe)) return read_json_file(recipe);
  const std::string log = path + "/metrics.jsonl";
  if (path_exists(log)) {
    const std::string text = read_file(log);
    const Json line = Json::parse(text.substr(0, text.find('\n')), nullptr, false);
    if (line.is_object() && line.contains("recipe") && line["recipe"].is_object()) {
      return line["recipe"];
    }
  }
  for (const int64_t step : list_checkpoints(path)) {
    const std::string kept = checkpoint_path(path, step) + "/recipe.json";
    if (path_exists(kept)) return read_json_file(kept);
  }
  fail(
      ErrorCode::usage,
      "{}: holds parts of a run, and nothing says of which recipe (recipe.json is missing); choose "
      "another folder with --out",
      path);
}

// Removes what a process that was killed left of writing recipe.json, exit.json and the proof that
// ranks share the folder. No one else writes them: the caller holds the lock.
void remove_half_written_files(const std::string& path) {
  std::vector<std::string> left;
  std::error_code error;
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with("recipe.json.tmp-") || name.starts_with("exit.json.tmp-") ||
        name == kSharingProof) {
      left.push_back(it->path().string());
    }
  }
  for (const std::string& name : left) remove_tree(name);
}

// The step that "step-300" or "300" names, -1 for "".
int64_t chosen_step(const std::string& path, const std::string& from) {
  if (from.empty()) return -1;
  std::string name = from;
  while (name.size() > 1 && name.ends_with('/')) name.pop_back();
  name = name.substr(name.rfind('/') + 1);
  if (name.starts_with("step-")) name = name.substr(5);
  int64_t step = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), step);
  if (error != std::errc() || end != name.data() + name.size() || step < 0) {
    fail(ErrorCode::usage, "--resume-from {}: expected step-N, a checkpoint in {}", from, path);
  }
  return step;
}

// Error(usage) unless the checkpoint can be continued by this recipe, on this data. Fills
// in steps_before.
void check_checkpoint(RunFolder& folder, const Recipe& recipe, const std::string& data_fingerprint,
                      int64_t ranks, Console& console) {
  if (folder.checkpoint.step < 0) return;
  const std::string where = checkpoint_path(folder.path, folder.checkpoint.step);
  const Json& manifest = folder.checkpoint.manifest;
  if (json_string(manifest, "recipe_hash", where) != recipe_hash(recipe)) {
    const Json before = read_json_file(where + "/recipe.json");
    check_recipe(folder.path, before, recipe);
    const int64_t steps = json_int(before["train"], "steps", where + "/recipe.json");
    if (steps != recipe.train.steps) folder.steps_before = steps;
  }
  if (folder.checkpoint.step > recipe.train.steps) {
    fail(ErrorCode::usage,
         "train.steps = {}: {} has done more; give at least {} steps, or an older checkpoint with "
         "--resume-from",
         recipe.train.steps, where, folder.checkpoint.step);
  }
  if (json_string(manifest, "data_fingerprint", where) != data_fingerprint) {
    std::vector<std::string> paths;
    for (const DataSource& source : sources_of(recipe.data)) paths.push_back(source.path);
    fail(ErrorCode::usage,
         "{}: was trained on other data than {} {} now: restore that data, or choose another "
         "folder with --out",
         where, fmt::join(paths, ", "), paths.size() == 1 ? "holds" : "together hold");
  }
  if (json_int(manifest, "threads", where) != at::get_num_threads()) {
    console.warn(
        "the run was made with {} threads and goes on with {}: results are the same only up to "
        "rounding (docs/numerics.md)",
        json_int(manifest, "threads", where), at::get_num_threads());
  }
  // Checkpoints from before there were ranks are of one.
  const int64_t ranks_before = manifest.contains("ranks") ? json_int(manifest, "ranks", where) : 1;
  if (!recipe.train.exact_ranks && ranks_before != ranks) {
    console.warn(
        "the run was made with {} ranks and goes on with {}: with train.exact_ranks = false "
        "results are the same only up to rounding (docs/numerics.md)",
        ranks_before, ranks);
  }
}

// Error(usage) unless the weights that the call names are those that the run began with.
// Fills in what the call leaves out. A job that is started again with the same words names
// them at every start.
void check_start(const RunFolder& folder, bool automatic, StartingWeights& start) {
  const bool has_checkpoint = folder.checkpoint.step >= 0;
  if (has_checkpoint && start.from.empty()) return;
  if (has_checkpoint && !automatic) {
    fail(ErrorCode::usage,
         "{}: goes on from {}, whose weights --init-from would replace; leave one of --resume and "
         "--init-from out",
         folder.path, checkpoint_path(folder.path, folder.checkpoint.step));
  }
  const std::string path = folder.path + "/" + kStartFile;
  StartingWeights before;
  if (path_exists(path)) {
    const Json json = read_json_file(path);
    before = {json_string(json, "init_from", path), json_bool(json, "with_optimizer", path)};
  }
  if (start.from.empty()) {
    start = before;
  } else if (as_written(start.from) != before.from ||
             start.with_optimizer != before.with_optimizer) {
    const auto shown = [](const StartingWeights& weights) {
      if (weights.from.empty()) return std::string("initialised weights");
      return "--init-from " + weights.from + (weights.with_optimizer ? " --with-optimizer" : "");
    };
    fail(ErrorCode::usage, "{}: began with {}, not with {}; choose another folder with --out",
         folder.path, shown(before), shown(start));
  }
}

}  // namespace

Json run_manifest(const Recipe& recipe, const std::string& data_fingerprint, int64_t num_ranks) {
  return {{"recipe_hash", recipe_hash(recipe)},
          {"data_fingerprint", data_fingerprint},
          {"torch_version", TORCH_VERSION},
          {"threads", at::get_num_threads()},
          {"ranks", num_ranks}};
}

RunFolder open_run_folder(const std::string& path, const ResumeChoice& choice,
                          StartingWeights& start, const Recipe& recipe,
                          const std::string& data_fingerprint, Console& console) {
  // Hold the folder, and refuse one that holds anything of another run. One that no start has ever
  // held has nothing to resume.
  const bool must_resume = choice.resume || !choice.from.empty();
  const bool resume = must_resume || choice.automatic;
  if (must_resume && !path_exists(path + "/lock") &&
      (!is_directory(path) || trace_of_run(path).empty())) {
    fail(ErrorCode::usage,
         "{}: there is no run to resume; check --out, or leave out --resume to begin one", path);
  }
  make_directories(path);
  RunFolder folder{
      .path = path, .lock = std::make_unique<FileLock>(path + "/lock"), .checkpoint = {}};
  remove_half_written_files(path);
  const std::string trace = trace_of_run(path);
  if (trace.empty()) return folder;
  if (!resume) {
    const std::vector<int64_t> steps = list_checkpoints(path);
    fail(ErrorCode::usage,
         "{}: has {}; add --resume to go on from there, or choose another folder with --out", path,
         steps.empty() ? trace + " of a run"
                       : fmt::format("checkpoints up to step-{}", steps.back()));
  }
  check_recipe(path, recipe_of_run(path), recipe);

  // Find the checkpoint, and set aside what cannot be used.
  folder.checkpoint =
      find_checkpoint(path, chosen_step(path, choice.from), recipe.train.keep_checkpoints);
  for (const std::string& warning : folder.checkpoint.warnings) console.warn("{}", warning);
  if (folder.checkpoint.step < 0 && path_exists(path + "/model")) {
    fail(ErrorCode::usage,
         "{}: has a finished model, but no checkpoint to go on from; choose another folder with "
         "--out",
         path);
  }
  check_checkpoint(folder, recipe, data_fingerprint, choice.ranks, console);
  check_start(folder, choice.automatic, start);
  clean_run_folder(path, folder.checkpoint);
  return folder;
}

void write_run_recipe(const std::string& run, const Recipe& recipe, const StartingWeights& start) {
  // Before the recipe: a folder that has one says what the run began with.
  if (!start.from.empty()) {
    const Json json{{"init_from", start.from}, {"with_optimizer", start.with_optimizer}};
    write_file_atomic(run + "/" + kStartFile, json_text(json, 1) + "\n");
  }
  write_file_atomic(run + "/recipe.json", json_text(recipe_json(recipe), 1) + "\n");
}

}  // namespace osp
