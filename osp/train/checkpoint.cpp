#include "osp/train/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <system_error>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/sha256.h"

namespace osp {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest = "manifest.json";
constexpr const char* kPrefix = "step-";

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

Json describe_files(const std::string& folder) {
  Json files = Json::object();
  for (const std::string& name : entries(folder)) {
    const std::string path = folder + "/" + name;
    files[name] = {{"bytes", uint64_t(fs::file_size(path))}, {"sha256", sha256_file(path)}};
  }
  return files;
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

void commit_checkpoint(const std::string& run, int64_t step, const Json& manifest,
                       const std::function<void(const std::string& folder)>& write_files) {
  const auto write_all = [&](const std::string& temporary) {
    write_files(temporary);
    Json complete = manifest;
    complete["format"] = kCheckpointFormat;
    complete["step"] = step;
    complete["files"] = describe_files(temporary);
    complete["sha256"] = sha256_hex(complete.dump());
    write_file_durable(temporary + "/" + kManifest, complete.dump(1) + "\n");
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
  if (sha256_hex(manifest.dump()) != own_hash) {
    fail(ErrorCode::damaged, "{}: its own SHA-256 differs", where);
  }
  if (json_int(manifest, "format", where) != kCheckpointFormat) {
    fail(ErrorCode::unsupported, "{}: format {}, this program reads {}", where,
         manifest["format"].dump(), kCheckpointFormat);
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
    if (error) fail(ErrorCode::damaged, "{}: {}", path, error.message());
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

FoundCheckpoint find_checkpoint(const std::string& run) {
  const std::vector<int64_t> steps = list_checkpoints(run);
  FoundCheckpoint found;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    try {
      found.manifest = verify_checkpoint(checkpoint_path(run, *step));
      found.step = *step;
      return found;
    } catch (const Error& error) {
      found.warnings.push_back(
          fmt::format("checkpoint {}{} cannot be used: {}", kPrefix, *step, error.what()));
    }
  }
  if (!steps.empty()) {
    fail(ErrorCode::damaged,
         "{}: none of its {} checkpoints is intact ({}); restore one from a backup, or start a new "
         "run in another folder",
         run, steps.size(), found.warnings.front());
  }
  return found;
}

void clean_run_folder(const std::string& run, int64_t valid_step) {
  for (const std::string& name : entries(run)) {
    const std::string path = run + "/" + name;
    const bool left_over = name.starts_with(kPrefix) && step_of(name) < 0 &&
                           (name.ends_with(".tmp") || name.ends_with(".old"));
    if (left_over) remove_tree(path);
    if (step_of(name) > valid_step) {
      remove_tree(path + ".damaged");
      rename_path(path, path + ".damaged");
    }
  }
}

std::vector<int64_t> purge_checkpoints(const std::string& run, std::vector<int64_t> valid_steps,
                                       int64_t keep) {
  OSP_CHECK(keep >= 2, "at least two checkpoints are kept, not {}", keep);
  while (valid_steps.size() > size_t(keep)) {
    const std::string path = checkpoint_path(run, valid_steps.front());
    // Renamed first: a half removed folder must not look like a damaged checkpoint.
    rename_path(path, path + ".old");
    valid_steps.erase(valid_steps.begin());
    remove_tree(path + ".old");
  }
  return valid_steps;
}

}  // namespace osp
