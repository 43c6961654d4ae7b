#include "osp/train/config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/data/object_store.h"
#include "osp/ops/hadamard.h"
#include "osp/optim/schedule.h"
#include "osp/quant/bits.h"
#include "osp/quant/qat.h"

namespace osp {
namespace {

// {"section.key": value} of a nested object.
void flatten(const Json& object, const std::string& prefix, Json& values) {
  for (const auto& [key, value] : object.items()) {
    const std::string name = prefix.empty() ? key : prefix + "." + key;
    if (value.is_object()) {
      flatten(value, name, values);
    } else {
      values[name] = value;
    }
  }
}

// The value of data.source without the paths, which do not decide results; other values
// as they are.
Json without_paths(const FieldRef& field, Json value) {
  if (field.name != "data.source" || !value.is_array()) return value;
  for (Json& source : value) {
    if (source.is_object()) source.erase("path");
  }
  return value;
}

// "runs/wiki/" → "wiki".
std::string last_part(std::string path) {
  path = uri_without_query(path);
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

// Every field's value in a recipe that was written with `values` and may lack some: those have
// their default, or what follows from the others.
Json completed_values(const Json& values, const Recipe& here) {
  Recipe old;
  const FieldTable table = recipe_table(old);
  for (const FieldRef& field : table.fields()) {
    try {
      if (values.contains(field.name)) field.assign(values[field.name], "recipe.json");
    } catch (const Error&) {
      // A value that is not possible any more differs from every one that is.
    }
  }
  try {
    old = resolved_recipe(old, here.model.vocabulary);
  } catch (const Error&) {
    // Not resolvable: the fields keep their defaults.
  }
  Json completed = Json::object();
  for (const FieldRef& field : table.fields()) completed[field.name] = field.value();
  return completed;
}

}  // namespace

FieldTable recipe_table(Recipe& recipe) {
  FieldTable table;
  table.add("run", recipe.run);
  table.add("data", recipe.data);
  table.add("model", recipe.model);
  table.add("optim", recipe.optim);
  table.add("schedule", recipe.schedule);
  table.add("train", recipe.train);
  table.add("guard", recipe.guard);
  table.add("qat", recipe.qat);
  return table;
}

Recipe load_recipe(const std::string& path, const std::vector<std::string>& assignments) {
  Recipe recipe;
  const FieldTable table = recipe_table(recipe);
  load_toml(path, table);
  for (const std::string& assignment : assignments) table.assign_text(assignment);
  return recipe;
}

namespace {

void check_qat(const QatConfig& qat, const ScheduleConfig& schedule, const BitWidths& bits) {
  parse_input_points(qat.points);
  if (bits.any_float()) {
    fail(ErrorCode::usage,
         "qat.bits = \"{}\": training rounds to integer grids only; floating-point formats are for "
         "`osp quantize` and `osp eval`",
         qat.bits);
  }
  if (qat.points != "all" && !bits.quantizes_activations()) {
    fail(ErrorCode::usage,
         "qat.points = \"{}\" with qat.bits = \"{}\": activations keep 16 bits, so no point would "
         "be quantized; give them fewer",
         qat.points, qat.bits);
  }
  if (qat.start != "decay") return;
  if (schedule.kind == "constant") {
    fail(ErrorCode::usage,
         "qat.start = \"decay\" with schedule.kind = \"constant\": the learning rate never decays; "
         "choose another schedule, or qat.start = \"step\" with qat.start_step");
  }
  if (qat.start_step > 0) {
    fail(ErrorCode::usage,
         "qat.start = \"decay\" and qat.start_step = {} contradict each other: set one of them",
         qat.start_step);
  }
}

void check_reduction(const TrainConfig& train) {
  if (train.reduce_precision == "fp32" || !train.exact_ranks) return;
  fail(ErrorCode::usage,
       "train.reduce_precision = \"{}\" rounds what ranks send, so that their number shows in the "
       "result: set train.exact_ranks = false as well, or fp32",
       train.reduce_precision);
}

void check_groups(int64_t groups, int64_t sequences) {
  if (groups <= sequences) return;
  fail(ErrorCode::usage,
       "train.reduction_groups = {}: a step has {} sequences (train.batch_tokens / "
       "model.context), and every group needs one",
       groups, sequences);
}

}  // namespace

Recipe resolved_recipe(Recipe recipe, int64_t data_vocabulary) {
  TrainConfig& train = recipe.train;
  ModelConfig& model = recipe.model;
  // The vocabulary is that of the data, unless the recipe has a larger one.
  const std::string path = sources_of(recipe.data)[0].path;
  if (!recipe.data.sources.empty()) recipe.data.sources = sources_of(recipe.data);
  if (model.vocabulary == 0) model.vocabulary = data_vocabulary;
  if (model.vocabulary == 0) {
    fail(ErrorCode::usage,
         "model.vocabulary is 0 and the data at {} does not say how many tokens it has: set "
         "model.vocabulary",
         path);
  }
  if (model.vocabulary < data_vocabulary) {
    fail(
        ErrorCode::usage,
        "model.vocabulary = {} is smaller than the {} tokens of the data at {}: raise it, or set 0 "
        "to take the data's",
        model.vocabulary, data_vocabulary, path);
  }
  // Complete the model, and check what is quantized in training.
  model = resolved_config(model);
  const BitWidths bits = parse_bits(recipe.qat.bits);
  if (bits.quantizes_kv_cache()) check_hadamard_size(model.head_size, "head size");
  check_qat(recipe.qat, recipe.schedule, bits);
  // Divide a step into sequences and groups.
  if (train.batch_tokens % model.context != 0) {
    fail(ErrorCode::usage,
         "train.batch_tokens = {} is not a multiple of model.context = {}: choose {} or {}",
         train.batch_tokens, model.context, train.batch_tokens / model.context * model.context,
         (train.batch_tokens / model.context + 1) * model.context);
  }
  const int64_t sequences = sequences_per_step(recipe);
  check_groups(train.reduction_groups, sequences);
  check_reduction(train);
  // Steps follow from tokens, or tokens from steps.
  if (train.steps > 0 && train.tokens > 0 && train.tokens != train.steps * train.batch_tokens) {
    fail(
        ErrorCode::usage,
        "train.steps = {} and train.tokens = {} contradict each other at {} tokens a step: set one "
        "of them to 0",
        train.steps, train.tokens, train.batch_tokens);
  }
  if (train.steps == 0) train.steps = (train.tokens + train.batch_tokens - 1) / train.batch_tokens;
  if (train.steps == 0) fail(ErrorCode::usage, "train.steps and train.tokens are both 0: set one");
  train.tokens = train.steps * train.batch_tokens;
  // Fit the micro-batch to the memory for activations.
  if (train.micro_batch_sequences == 0) {
    const double room = static_cast<double>(train.activation_memory_mb) * 1e6;
    // Size the micro-batch as if nothing were recomputed, so that the option cannot change results.
    Recipe kept = recipe;
    kept.train.recompute_blocks = false;
    const int64_t fit = int64_t(room / activation_bytes_per_sequence(kept));
    train.micro_batch_sequences = std::clamp(fit, int64_t{1}, sequences);
  }
  train.micro_batch_sequences = std::min(train.micro_batch_sequences, sequences);
  return recipe;
}

std::vector<DataSource> sources_of(const DataConfig& data) {
  if (data.sources.empty()) return {{.name = "", .path = data.path}};
  if (!data.path.empty()) {
    fail(ErrorCode::usage,
         "data.path = \"{}\" and [[data.source]] are both given: leave one of them out, or set "
         "data.path = \"\" where it is inherited",
         data.path);
  }
  std::vector<DataSource> sources = data.sources;
  std::set<std::string> names;
  for (size_t k = 0; k < sources.size(); ++k) {
    DataSource& source = sources[k];
    if (source.path.empty()) {
      fail(ErrorCode::usage, "data.source {}: path is missing", k + 1);
    }
    if (source.name.empty()) source.name = last_part(source.path);
    if (!names.insert(source.name).second) {
      fail(ErrorCode::usage,
           "data.source {}: the name {} is taken by another source; give each its own name", k + 1,
           source.name);
    }
  }
  return sources;
}

Json recipe_json(const Recipe& recipe) {
  Recipe copy = recipe;
  return recipe_table(copy).to_json();
}

std::string recipe_hash(const Recipe& recipe) {
  Recipe copy = recipe;
  for (DataSource& source : copy.data.sources) source.path.clear();
  return config_hash(recipe_table(copy));
}

std::string recipe_differences(const Json& there, const Recipe& here) {
  Recipe copy = here;
  const FieldTable table = recipe_table(copy);
  Json old_values = Json::object();
  flatten(there, "", old_values);
  const Json completed = completed_values(old_values, here);
  std::vector<std::string> differences;
  for (const FieldRef& field : table.fields()) {
    if (!field.traits.affects_results) continue;
    if (field.name == "train.steps" || field.name == "train.tokens") continue;
    const bool known = old_values.contains(field.name);
    const Json old_value =
        without_paths(field, known ? old_values[field.name] : completed[field.name]);
    const Json new_value = without_paths(field, field.value());
    old_values.erase(field.name);
    if (old_value == as_written(new_value)) continue;
    differences.push_back(fmt::format("{} ({} there, {} here)", field.name, json_text(old_value),
                                      json_text(new_value)));
  }
  // The others must be fields that do not decide results, or are unknown to this program.
  for (const auto& [name, value] : old_values.items()) {
    const auto is_named = [&name = name](const FieldRef& field) { return field.name == name; };
    if (std::ranges::any_of(table.fields(), is_named)) continue;
    differences.push_back(
        fmt::format("{} ({} there, unknown to this program)", name, json_text(value)));
  }
  return fmt::format("{}", fmt::join(differences, ", "));
}

int64_t steps_before_qat(const Recipe& recipe) {
  return recipe.qat.start == "decay" ? steps_before_decay(recipe.schedule, recipe.train.steps)
                                     : recipe.qat.start_step;
}

int64_t sequences_per_step(const Recipe& recipe) {
  return recipe.train.batch_tokens / recipe.model.context;
}

int64_t groups_of_step(const Recipe& recipe, int64_t ranks) {
  return recipe.train.exact_ranks ? recipe.train.reduction_groups : ranks;
}

double activation_bytes_per_sequence(const Recipe& recipe) {
  const ModelConfig& m = recipe.model;
  const double element = recipe.train.precision == "bf16" ? 2 : 4;
  // The stream in front of each branch, scaled branches; q, k, v and the output of attention; gate
  // and up. Results of norms and of SwiGLU are recomputed (osp/ops/recomputable_input.h).
  const double vectors = 2.0 + (m.branch_scale ? 2.0 : 0.0);
  const double per_token_layer = vectors * static_cast<double>(m.width) +
                                 2.0 * static_cast<double>((m.heads + m.kv_heads) * m.head_size) +
                                 2.0 * static_cast<double>(m.inner);
  double quantized = 0;
  if (parse_bits(recipe.qat.bits) != BitWidths{}) {
    quantized = 2.0 * static_cast<double>(m.width) +
                static_cast<double>((2 * m.heads + 2 * m.kv_heads) * m.head_size) +
                static_cast<double>(m.inner);
  }
  const double per_block = element * static_cast<double>(m.context) * (per_token_layer + quantized);
  if (!recipe.train.recompute_blocks) return static_cast<double>(m.layers) * per_block;
  const double inputs =
      element * static_cast<double>(m.context) * 2.0 * static_cast<double>(m.width);
  return static_cast<double>(m.layers) * inputs + per_block;
}

}  // namespace osp
