#include "osp/train/checkpoint.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/base/json_text.h"
#include "osp/base/sha256.h"

namespace osp {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest = "manifest.json";
constexpr const char* kPrefix = "step-";
constexpr const char* kDamaged = ".damaged";
constexpr const char* kSuperseded = ".superseded";

// The step in "step-N", or -1 for any other name ("step-N.tmp", "step-007").
int64_t step_of(const std::string& name) {
  if (!name.starts_with(kPrefix)) return -1;
  const std::string digits = name.substr(std::string(kPrefix).size());
  int64_t step = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  const bool whole = error == std::errc() && end == digits.data() + digits.size();
  return whole && step >= 0 && digits == std::to_string(step) ? step : -1;
}

std::vector<std::string> entries(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error) fail(ErrorCode::io, "{}: cannot list: {}", folder, error.message());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

std::string checkpoint_path(const std::string& run, int64_t step) {
  return fmt::format("{}/{}{}", run, kPrefix, step);
}

void write_file_durable(const std::string& path, const std::string& bytes) {
  FileWriter writer(path);
  writer.write(bytes.data(), bytes.size());
  writer.close();
}

Json describe_file(const std::string& path) {
  // Opened first: a file system over a network may know an older size until then.
  const std::string hash = sha256_file(path);
  return {{"bytes", uint64_t(fs::file_size(path))}, {"sha256", hash}};
}

void commit_checkpoint(const std::string& run, int64_t step, const Json& manifest,
                       const std::function<Json(const std::string& folder)>& write_files) {
  const auto write_all = [&](const std::string& temporary) {
    const Json files = write_files(temporary);
    Json complete = manifest;
    complete["format"] = kCheckpointFormat;
    complete["step"] = step;
    complete["files"] = files;
    complete["sha256"] = sha256_hex(json_text(complete));
    write_file_durable(temporary + "/" + kManifest, json_text(complete, 1) + "\n");
  };
  try {
    // Only ever a damaged checkpoint is replaced: a valid one is not saved again.
    write_folder_atomic(checkpoint_path(run, step), write_all, IfExists::replace);
  } catch (const std::exception& error) {
    fail(ErrorCode::io, "checkpoint {}{} was not saved: {}", kPrefix, step, error.what());
  }
}

Json verify_checkpoint(const std::string& folder) {
  const std::string where = folder + "/" + kManifest;
  if (!path_exists(where)) fail(ErrorCode::damaged, "{}: is missing", where);

  // The manifest itself: its hash and format.
  Json manifest = read_json_file(where, 16 << 20);
  const std::string own_hash = json_string(manifest, "sha256", where);
  manifest.erase("sha256");
  if (sha256_hex(json_text(manifest)) != own_hash) {
    fail(ErrorCode::damaged, "{}: its own SHA-256 differs", where);
  }
  if (json_int(manifest, "format", where) != kCheckpointFormat) {
    fail(ErrorCode::unsupported, "{}: format {}, this program reads {}", where,
         json_text(manifest["format"]), kCheckpointFormat);
  }
  if (!manifest.contains("files") || !manifest["files"].is_object()) {
    fail(ErrorCode::damaged, "{}: has no object \"files\"", where);
  }

  // Every file that it lists: size and hash.
  for (const auto& [name, entry] : manifest["files"].items()) {
    if (name.find('/') != std::string::npos || name.starts_with(".")) {
      fail(ErrorCode::damaged, "{}: {} is no name of a file in the folder", where, name);
    }
    const std::string path = folder + "/" + name;
    std::error_code error;
    const uint64_t size = fs::file_size(path, error);
    if (error) {
      const bool missing = error == std::errc::no_such_file_or_directory;
      fail(missing ? ErrorCode::damaged : ErrorCode::io, "{}: {}", path, error.message());
    }
    const auto expected = json_int(entry, "bytes", where + ": " + name);
    if (size != uint64_t(expected)) {
      fail(ErrorCode::damaged, "{}: has {} bytes, manifest.json says {}", path, size, expected);
    }
    if (sha256_file(path) != json_string(entry, "sha256", where + ": " + name)) {
      fail(ErrorCode::damaged, "{}: SHA-256 differs from manifest.json", path);
    }
  }
  return manifest;
}

std::vector<int64_t> list_checkpoints(const std::string& run) {
  std::vector<int64_t> steps;
  if (!is_directory(run)) return steps;
  for (const std::string& name : entries(run)) {
    if (step_of(name) >= 0 && is_directory(run + "/" + name)) steps.push_back(step_of(name));
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

int64_t skips_in_a_row(const std::string& folder) {
  const std::string where = folder + "/trainer.json";
  if (!path_exists(where)) return 0;
  const Json trainer = read_json_file(where);
  return trainer.contains("guard") ? json_int(trainer["guard"], "consecutive", where) : 0;
}

FoundCheckpoint find_checkpoint(const std::string& run, int64_t chosen, int64_t keep) {
  std::vector<int64_t> steps = list_checkpoints(run);
  FoundCheckpoint found;
  // Set the steps after a chosen one apart.
  if (chosen >= 0) {
    const auto place = std::find(steps.begin(), steps.end(), chosen);
    if (place == steps.end()) {
      fail(ErrorCode::usage, "{}: has no checkpoint {}{}; it has {}", run, kPrefix, chosen,
           steps.empty() ? "none" : fmt::format("{}", fmt::join(steps, ", ")));
    }
    found.superseded.assign(place + 1, steps.end());
    steps.erase(place + 1, steps.end());
  }
  // Judge the others from the newest to the oldest.
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    if (static_cast<int64_t>(found.healthy.size()) >= keep) {
      found.surplus.push_back(*step);
      continue;
    }
    if (step != steps.rbegin()) leave_if_stopped("the checkpoints were verified");
    try {
      const std::string path = checkpoint_path(run, *step);
      Json manifest = verify_checkpoint(path);
      (skips_in_a_row(path) > 0 ? found.in_streak : found.healthy).push_back(*step);
      if (found.step >= 0) continue;
      found.manifest = std::move(manifest);
      found.step = *step;
    } catch (const Error& error) {
      if (error.code() == ErrorCode::interrupted || *step == chosen) throw;
      if (error.code() == ErrorCode::damaged) found.damaged.push_back(*step);
      found.warnings.push_back(
          fmt::format("checkpoint {}{} cannot be used: {}", kPrefix, *step, error.what()));
    }
  }
  if (!steps.empty() && found.step < 0) {
    fail(found.damaged.size() == steps.size() ? ErrorCode::damaged : ErrorCode::io,
         "{}: none of its {} checkpoints is intact ({}); restore one from a backup, or start a new "
         "run in another folder",
         run, steps.size(), found.warnings.front());
  }
  for (auto* list : {&found.healthy, &found.in_streak, &found.damaged, &found.surplus}) {
    std::sort(list->begin(), list->end());
  }
  return found;
}

namespace {

// Renamed, then removed: a half removed folder must not look like a damaged checkpoint.
void remove_checkpoint(const std::string& run, int64_t step) {
  const std::string path = checkpoint_path(run, step);
  rename_path(path, path + ".old");
  remove_tree(path + ".old");
}

void set_aside(const std::string& run, int64_t step, const char* suffix) {
  const std::string path = checkpoint_path(run, step);
  remove_tree(path + suffix);
  rename_path(path, path + suffix);
}

}  // namespace

void clean_run_folder(const std::string& run, const FoundCheckpoint& found) {
  for (const std::string& name : entries(run)) {
    const bool left_over = name.starts_with(kPrefix) && step_of(name) < 0 &&
                           (name.ends_with(".tmp") || name.ends_with(".old"));
    if (left_over) remove_tree(run + "/" + name);
  }
  for (const int64_t step : found.damaged) set_aside(run, step, kDamaged);
  for (const int64_t step : found.superseded) set_aside(run, step, kSuperseded);
  for (const int64_t step : found.surplus) remove_checkpoint(run, step);
}

void remove_set_aside(const std::string& run, int64_t step) {
  for (const std::string& name : entries(run)) {
    for (const std::string_view suffix : {kDamaged, kSuperseded}) {
      if (!name.ends_with(suffix)) continue;
      const int64_t aside = step_of(name.substr(0, name.size() - suffix.size()));
      if (aside >= 0 && aside <= step) remove_tree(run + "/" + name);
    }
  }
}

std::vector<int64_t> purge_checkpoints(const std::string& run, std::vector<int64_t> valid_steps,
                                       int64_t keep) {
  while (valid_steps.size() > size_t(keep)) {
    const int64_t oldest = valid_steps.front();
    valid_steps.erase(valid_steps.begin());
    remove_checkpoint(run, oldest);
  }
  return valid_steps;
}

}  // namespace osp
