#include "osp/cli/quantize_runs.h"

#include <utility>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json_text.h"

namespace osp {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 30;

}  // namespace

QuantizeRuns::QuantizeRuns(Json header, const std::string& path, bool resume)
    : path_(path), json_(std::move(header)) {
  json_["runs"] = Json::array();
  if (path_.empty() || !resume || !path_exists(path_)) return;
  const Json kept = read_json_file(path_, kMaxBytes);
  if (!kept.is_object() || !kept.contains("call") || !kept.contains("runs") ||
      !kept["runs"].is_array()) {
    fail(ErrorCode::damaged, "{}: not the results of osp quantize --method all", path_);
  }
  if (kept["call"] != as_written(json_["call"])) {
    fail(ErrorCode::usage,
         "{}: begun with other options than given now; give the same ones, or another --out",
         path_);
  }
  for (const Json& run : kept["runs"]) {
    json_string(run, "model", path_);
    json_string(run, "method", path_);
    json_int(run, "seed", path_);
    json_["runs"].push_back(run);
  }
}

const Json* QuantizeRuns::find(const std::string& model, const std::string& method,
                               uint64_t seed) const {
  const Json name = as_written(model);
  for (const Json& run : json_["runs"]) {
    if (as_written(run["model"]) == name && run["method"] == method && run["seed"] == seed)
      return &run;
  }
  return nullptr;
}

void QuantizeRuns::add(Json run) {
  json_["runs"].push_back(std::move(run));
  if (!path_.empty()) write_file_atomic(path_, json_text(json_, 2) + "\n");
}

}  // namespace osp
