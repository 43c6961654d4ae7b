#include "osp/train/run_folder.h"

#include <ATen/Parallel.h>
#include <torch/headeronly/version.h>

#include "osp/base/error.h"

namespace osp {
namespace {

void check_recipe(const std::string& run, const std::string& source, const Recipe& recipe) {
  const std::string differences = recipe_differences(read_json_file(source), recipe);
  if (differences.empty()) return;
  fail(ErrorCode::usage,
       "{}: is the run of another recipe; it differs in {}: use the recipe that it was started "
       "with, "
       "or choose another folder with --out",
       run, differences);
}

}  // namespace

Json run_manifest(const Recipe& recipe, const std::string& data_fingerprint) {
  return {{"recipe_hash", recipe_hash(recipe)},
          {"data_fingerprint", data_fingerprint},
          {"torch_version", TORCH_VERSION},
          {"threads", at::get_num_threads()},
          {"ranks", 1}};
}

RunFolder open_run_folder(const std::string& path, bool resume, const Recipe& recipe,
                          const std::string& data_fingerprint, Console& console) {
  make_directories(path);
  RunFolder folder{
      .path = path, .lock = std::make_unique<FileLock>(path + "/lock"), .checkpoint = {}};
  const std::vector<int64_t> steps = list_checkpoints(path);
  if (!resume && !steps.empty()) {
    fail(ErrorCode::usage,
         "{}: has checkpoints up to step-{}; add --resume to go on from there, or choose another "
         "folder with --out",
         path, steps.back());
  }
  const std::string recipe_path = path + "/recipe.json";
  if (resume && path_exists(recipe_path)) check_recipe(path, recipe_path, recipe);
  folder.checkpoint = find_checkpoint(path);
  for (const std::string& warning : folder.checkpoint.warnings) console.warn("{}", warning);
  if (folder.checkpoint.step >= 0) {
    const std::string where = checkpoint_path(path, folder.checkpoint.step);
    const Json& manifest = folder.checkpoint.manifest;
    if (json_string(manifest, "recipe_hash", where) != recipe_hash(recipe)) {
      check_recipe(path, where + "/recipe.json", recipe);
    }
    if (json_string(manifest, "data_fingerprint", where) != data_fingerprint) {
      fail(ErrorCode::usage,
           "{}: was trained on other data than {} holds now: restore that data, or choose another "
           "folder with --out",
           where, recipe.data.path);
    }
    if (json_int(manifest, "threads", where) != at::get_num_threads()) {
      console.warn(
          "the run was made with {} threads and goes on with {}: results are the same only up to "
          "rounding (docs/numerics.md)",
          json_int(manifest, "threads", where), at::get_num_threads());
    }
  }
  clean_run_folder(path, folder.checkpoint.step);
  write_file_atomic(recipe_path, recipe_json(recipe).dump(1) + "\n");
  return folder;
}

}  // namespace osp
