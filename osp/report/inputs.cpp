#include "osp/report/inputs.h"

#include <algorithm>
#include <set>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/file.h"

namespace osp {
namespace {

// Applies one --label.
void set_label(std::vector<RunData>& runs, const std::string& label) {
  const size_t equals = label.find('=');
  std::string known;
  for (RunData& run : runs) {
    if (equals != std::string::npos &&
        (label.substr(0, equals) == run.name || label.substr(0, equals) == run.key)) {
      run.label = label.substr(equals + 1);
      return;
    }
    known += (known.empty() ? "" : ", ") + run.name;
  }
  if (known.empty()) fail(ErrorCode::usage, "--label {}: there is no model to be named", label);
  fail(ErrorCode::usage, "--label {}: expected NAME=TEXT with NAME one of {}", label, known);
}

// The folder that names a model: "runs/demo/osp" for "runs/demo/osp/model" and "…/step-300".
std::filesystem::path named_folder(const std::string& model) {
  const std::filesystem::path path = clean_path(model);
  const std::string last = path.filename().string();
  return last == "model" || last.starts_with("step-") ? path.parent_path() : path;
}

bool belongs_to(const ModelResults& results, const RunData& run) {
  if (results.model.empty()) return false;
  if (results.model == run.model) return true;
  return run.trained_here()
             ? named_folder(results.model) == clean_path(run.path)
             : !run.model.empty() && clean_path(results.model) == clean_path(run.model);
}

// Results wait until all runs are read, since a run may be named after its results.
struct Inputs {
  ReportInputs found;
  std::vector<ModelResults> results;
};

void read_file_input(const std::string& path, Inputs& inputs) {
  std::vector<ModelResults> read;
  if (path.ends_with(".jsonl")) {
    read = read_items(read_file(path), path);
  } else {
    const Json file = read_json_file(path);
    if (file.is_object() && file.contains("pairs")) {
      if (inputs.found.race) fail(ErrorCode::usage, "{}: a second race; give one", path);
      inputs.found.race = read_race(file, path);
      return;
    }
    read = read_results(file, path);
  }
  for (ModelResults& results : read) {
    if (results.model.empty()) results.model = path;
    inputs.results.push_back(std::move(results));
  }
}

void read_input(const std::string& path, bool live, Inputs& inputs) {
  if (!path_exists(path)) {
    fail(ErrorCode::usage,
         "{}: there is no such file or folder; expected run folders and JSON results of osp eval, "
         "osp analyze and osp quantize",
         path);
  }
  if (!is_directory(path)) {
    read_file_input(path, inputs);
  } else if (path_exists(path + "/metrics.jsonl") || !path_exists(path + "/quantize.json")) {
    inputs.found.runs.push_back(read_run(path, live));
  } else {
    read_file_input(path + "/quantize.json", inputs);
  }
}

// Puts the name of the folder above in front of equal names.
void tell_apart(std::vector<RunData>& runs) {
  std::multiset<std::string> names;
  for (const RunData& run : runs) names.insert(run.key);
  std::set<std::string> keys;
  for (RunData& run : runs) {
    const std::string path = run.trained_here() ? run.path : named_folder(run.model).string();
    if (names.count(run.key) > 1) {
      set_name(clean_path(path).parent_path().filename().string() + "-" + run.name, run);
    }
    if (!keys.insert(run.key).second) {
      fail(ErrorCode::usage,
           "{}: a second model named {}; give each once, in folders of different names", path,
           run.name);
    }
  }
}

}  // namespace

ReportInputs read_inputs(const std::vector<std::string>& paths,
                         const std::vector<std::string>& labels, bool live) {
  Inputs inputs;
  for (const std::string& path : paths) read_input(path, live, inputs);
  std::vector<RunData>& runs = inputs.found.runs;
  for (ModelResults& results : inputs.results) {
    auto run = std::find_if(runs.begin(), runs.end(),
                            [&](const RunData& known) { return belongs_to(results, known); });
    if (run == runs.end()) {
      run = runs.insert(runs.end(), RunData{});
      set_name(named_folder(results.model).filename().string(), *run);
    }
    add_results(std::move(results), *run);
  }
  tell_apart(runs);
  for (const std::string& label : labels) set_label(runs, label);
  return std::move(inputs.found);
}

}  // namespace osp
