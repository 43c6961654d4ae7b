#include "osp/train/shared_save.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/patience.h"
#include "osp/ranks/all_do.h"
#include "osp/train/checkpoint.h"

namespace osp {
namespace {

// The names of a folder's files, those of tensors first, so that each rank hashes about as much.
Json files_by_size(const std::string& folder, const Snapshot& snapshot) {
  std::vector<std::pair<uint64_t, std::string>> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    files.emplace_back(entry.file_size(), entry.path().filename().string());
    for (const TensorFile& tensors : snapshot.files) {
      if (tensors.name == files.back().second) files.back().first = tensors.bytes;
    }
  }
  std::sort(files.rbegin(), files.rend());
  Json names = Json::array();
  for (const auto& [size, name] : files) names.push_back(name);
  return names;
}

// What manifest.json says of this rank's share of the files.
Json hash_share(const Ranks& ranks, const Snapshot& snapshot, const std::string& folder,
                const Json& names) {
  Json described = Json::object();
  for (size_t i = 0; i < names.size(); ++i) {
    if (static_cast<int64_t>(i) % ranks.size() != ranks.rank()) continue;
    const auto name = names[i].get<std::string>();
    described[name] = describe_file(folder + "/" + name);
    for (const TensorFile& file : snapshot.files) {
      if (file.name != name || described[name]["bytes"] == file.bytes) continue;
      fail(ErrorCode::io, "{}/{}: has {} bytes after all ranks wrote, expected {}", folder, name,
           described[name]["bytes"].get<uint64_t>(), file.bytes);
    }
  }
  return described;
}

// Steps 1 to 3, in the folder of `run` that the first rank names: by its last part alone, since
// what travels is UTF-8 and the name of a run need not be. Returns the manifest's "files".
Json write_and_describe(const Ranks& ranks, const std::string& run, const Snapshot& snapshot,
                        const std::string& folder, const std::string& tokenizer_json) {
  const Json begun = all_do(ranks, [&]() -> Json {
    if (!ranks.is_first()) return {};
    write_frame(snapshot, folder, tokenizer_json);
    return {{"name", std::filesystem::path(folder).filename().string()},
            {"files", files_by_size(folder, snapshot)}};
  })[0];
  const std::string shared = run + "/" + begun["name"].get<std::string>();
  all_do(ranks, [&]() -> Json {
    for (const TensorFile& file : snapshot.files) {
      comes_true(
          [&] { return path_exists(shared + "/" + file.name); });  // write_ranges() says if not
    }
    write_ranges(snapshot, shared);
    return {};
  });
  const std::vector<Json> shares =
      all_do(ranks, [&] { return hash_share(ranks, snapshot, shared, begun["files"]); });
  std::map<std::string, Json> by_name;
  for (const Json& share : shares) {
    for (const auto& [name, described] : share.items()) by_name[name] = described;
  }
  Json files = Json::object();
  for (const auto& [name, described] : by_name) files[name] = described;
  return files;
}

// Tells the others, who wait to hear of a folder, that there is none.
void say_failed(const Ranks& ranks, const Error& failure) {
  try {
    all_do(ranks, [&]() -> Json { throw Error(failure); });
  } catch (const LostRank&) {
    throw;
  } catch (const Error&) {  // that failure
    return;
  }
}

}  // namespace

void save_together(const Ranks& ranks, const std::string& run, const Json& manifest,
                   const Snapshot& snapshot, const std::string& tokenizer_json) {
  if (!ranks.is_first()) {
    write_and_describe(ranks, run, snapshot, "", "");
    return;
  }
  bool met = false;
  std::exception_ptr lost;
  const auto write_files = [&](const std::string& folder) {
    met = true;
    try {
      return write_and_describe(ranks, run, snapshot, folder, tokenizer_json);
    } catch (const LostRank&) {
      lost = std::current_exception();
      throw;
    }
  };
  try {
    commit_checkpoint(run, snapshot.step, manifest, write_files);
  } catch (const Error& error) {
    if (lost) std::rethrow_exception(lost);
    if (!met && !ranks.alone()) say_failed(ranks, error);
    throw;
  }
}

}  // namespace osp
