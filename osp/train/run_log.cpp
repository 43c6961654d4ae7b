#include "osp/train/run_log.h"

#include <ATen/Parallel.h>
#include <torch/version.h>

#include <cmath>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/memory.h"
#include "osp/base/provenance.h"
#include "osp/base/timing.h"
#include "osp/base/version.h"
#include "osp/ops/result_origin.h"
#include "osp/train/device.h"

namespace osp {
namespace {

// The length of the log that is continued; a warning if that is not all of it.
uint64_t kept_metrics(const std::string& run, uint64_t expected_bytes, const TrainState& state,
                      Console& console) {
  std::string warning;
  const uint64_t kept = usable_metrics(run + "/metrics.jsonl", expected_bytes, state.step, warning);
  if (!warning.empty()) console.warn("{}", warning);
  return kept;
}

// The first step whose points earlier event files may hold and this run plots again; none without
// such files. At step 0 a validation may have been plotted already.
std::optional<int64_t> first_replotted_step(const std::string& run, const TrainState& state) {
  if (!has_event_files(run)) return {};
  return state.step == 0 && !state.watched ? 0 : state.step + 1;
}

int64_t tokens_done(const TrainState& state) {
  return state.step * state.recipe.train.batch_tokens;
}

Json by_group(const TrainState& state, const std::vector<double>& values) {
  Json object = Json::object();
  for (size_t g = 0; g < values.size(); ++g) object[state.routing.groups[g].name] = values[g];
  return object;
}

}  // namespace

RunLog::RunLog(const std::string& run, uint64_t metrics_bytes, TrainState& state,
               const Mixture& data, PeakRate peak, Console& console)
    : state_(state),
      data_(data),
      console_(console),
      metrics_(run + "/metrics.jsonl", kept_metrics(run, metrics_bytes, state, console)),
      peak_(std::move(peak)),
      counted_to_(std::chrono::steady_clock::now()) {
  try {
    events_.emplace(run, wall_clock_seconds(), first_replotted_step(run, state));
  } catch (const Error& error) {
    console_.warn("no TensorBoard events: {}", error.what());
  }
  if (metrics_.bytes() > 0) return;
  add({{"kind", "start"},
       {"step", state.step},
       {"tokens", tokens_done(state)},
       {"recipe", recipe_json(state.recipe)},
       {"parameters", state.store.num_parameters()},
       {"osp_version", kVersion},
       {"command", process_command()},
       {"machine", machine_text()},
       {"instruction_set", instruction_set_text()},
       {"tensor_library", std::string("PyTorch ") + TORCH_VERSION},
       {"threads", at::get_num_threads()}});
}

void RunLog::count_time() {
  const auto now = std::chrono::steady_clock::now();
  state_.seconds += seconds_between(counted_to_, now);
  counted_to_ = now;
}

double RunLog::mfu(double tokens_per_s) {
  const auto start = std::chrono::steady_clock::now();
  const double share = peak_.share(tokens_per_s * model_flops_per_token(state_.recipe.model));
  counted_to_ += std::chrono::steady_clock::now() - start;  // measuring a peak is not training
  return share;
}

// {"NAME": {"tokens", "epochs"}} of all steps so far.
Json RunLog::taken_of_sources() {
  const BatchPlan plan = batch_plan(state_.recipe);
  const auto sequences = static_cast<uint64_t>(plan.sequences_per_step);
  data_.count(static_cast<uint64_t>(counted_step_) * sequences,
              static_cast<uint64_t>(state_.step) * sequences, plan.seed, visits_);
  counted_step_ = state_.step;
  Json taken = Json::object();
  for (size_t k = 0; k < visits_.size(); ++k) {
    const MixtureSource& source = data_.sources()[k];
    taken[source.name] = {
        {"tokens", visits_[k] * static_cast<uint64_t>(plan.context)},
        {"epochs", static_cast<double>(visits_[k]) /
                       static_cast<double>(num_windows(*source.data, plan.context))}};
  }
  return taken;
}

void RunLog::step(const StepReport& report) {
  // Time of this step, and of reading its batch.
  const double before = state_.seconds;
  count_time();
  train_seconds_ += state_.seconds - before;
  data_seconds_ += report.data_seconds;
  ++train_steps_;
  const bool logged = !report.update_norms.empty();
  if (!logged && report.skipped.empty()) return;

  // Rates since the last line.
  const double tokens_per_s = static_cast<double>(train_steps_ * state_.recipe.train.batch_tokens) /
                              std::max(train_seconds_, 1e-9);
  const double data_share = data_seconds_ / std::max(train_seconds_, 1e-9);
  train_seconds_ = data_seconds_ = 0;
  train_steps_ = 0;

  // The line of metrics.jsonl.
  Json norms{{"all", report.gradient_norm}};
  norms.update(by_group(state_, report.gradient_norms));
  Json line{{"kind", "step"},
            {"step", state_.step},
            {"tokens", tokens_done(state_)},
            {"loss", report.loss},
            {"lr", report.values.lr},
            {"momentum", report.values.momentum},
            {"weight_decay", report.values.weight_decay},
            {"gradient_norm", norms},
            {"update_norm", by_group(state_, report.update_norms)},
            {"tokens_per_s", tokens_per_s},
            {"mfu", mfu(tokens_per_s)},
            {"data_share", data_share},
            {"peak_memory_bytes", peak_memory_bytes()},
            {"seconds", state_.seconds},
            {"skipped", !report.skipped.empty()}};
  if (data_.is_mixed()) line["sources"] = taken_of_sources();
  if (!report.skipped.empty()) {
    line["skip_reason"] = report.skipped;
    line["skipped_steps"] = state_.guard.skipped();
    console_.warn("step {} was skipped: {}", state_.step, report.skipped);
  }
  add(line);

  // TensorBoard and the line for people.
  if (data_.is_mixed()) {
    for (const auto& [name, taken] : line["sources"].items()) {
      plot("epochs/" + name, taken["epochs"].get<double>());
    }
  }
  for (const char* key : {"loss", "lr", "tokens_per_s", "mfu"}) {
    plot(fmt::format("train/{}", key), line[key].get<double>());
  }
  for (const char* key : {"gradient_norm", "update_norm"}) {
    for (const auto& [group, value] : line[key].items()) {
      plot(fmt::format("{}/{}", key, group), value.get<double>());
    }
  }
  show(line);
}

void RunLog::show(const Json& line) {
  const Recipe& recipe = state_.recipe;
  const double rate = line["tokens_per_s"].get<double>();
  const double left_s = static_cast<double>(recipe.train.tokens - tokens_done(state_)) / rate;
  const std::string text = fmt::format(
      "step {}/{}  loss {:.4f}{}  lr {:.2e}  |g| {:.3g}  {:.0f} tokens/s  mfu {:.1f} %  {}  ETA {}",
      state_.step, recipe.train.steps, line["loss"].get<double>(), validation_text_,
      line["lr"].get<double>(), line["gradient_norm"]["all"].get<double>(), rate,
      100 * line["mfu"].get<double>(), format_bytes(line["peak_memory_bytes"].get<double>()),
      format_duration(left_s));
  if (console_.terminal()) {
    console_.status(text);
  } else {
    console_.line("{}", text);
  }
}

void RunLog::validation(const Json& measured) {
  Json line{{"kind", "validation"}, {"step", state_.step}, {"tokens", tokens_done(state_)}};
  line.update(measured);
  add(line);
  validation_text_ = fmt::format("  validation {:.4f}", measured["loss"].get<double>());
  plot("validation/loss", measured["loss"].get<double>());
  std::string of_sources;
  if (measured.contains("sources")) {
    for (const auto& [name, source] : measured["sources"].items()) {
      plot("validation/loss/" + name, source["loss"].get<double>());
      of_sources += fmt::format("{}{} {:.4f}", of_sources.empty() ? "; of " : ", ", name,
                                source["loss"].get<double>());
    }
  }
  plot("validation/excess_kurtosis", measured["excess_kurtosis"]["mean"].get<double>());
  plot("validation/largest_activation", measured["largest_activation"]["value"].get<double>());
  plot("validation/largest_attention_logit", measured["largest_attention_logit"].get<double>());
  for (const auto& [name, gain] : measured["gains"].items()) {
    plot("gains/" + name, gain.get<double>());
  }
  console_.line(
      "step {}: validation loss {:.4f}, perplexity {:.2f}, excess kurtosis {:.3f}, largest "
      "activation {:.1f}{}",
      state_.step, measured["loss"].get<double>(), measured["perplexity"].get<double>(),
      measured["excess_kurtosis"]["mean"].get<double>(),
      measured["largest_activation"]["value"].get<double>(), of_sources);
}

void RunLog::sample(const std::string& prompt, const std::string& text) {
  add({{"kind", "sample"}, {"step", state_.step}, {"prompt", prompt}, {"text", text}});
  if (events_) {
    try {
      events_->text("sample", state_.step, prompt + text, wall_clock_seconds());
    } catch (const Error& error) {
      events_.reset();
      console_.warn("no more TensorBoard events: {}", error.what());
    }
  }
  console_.line("step {}: {}{}", state_.step, prompt, text);
}

void RunLog::extended(int64_t steps_before) {
  const int64_t steps = state_.recipe.train.steps;
  add({{"kind", "extend"},
       {"step", state_.step},
       {"tokens", tokens_done(state_)},
       {"steps_before", steps_before},
       {"steps", steps}});
  console_.line("the run of {} steps now has {}: the schedule is that of {} from here on",
                steps_before, steps, steps);
}

void RunLog::end() {
  add({{"kind", "end"},
       {"step", state_.step},
       {"tokens", tokens_done(state_)},
       {"seconds", state_.seconds}});
}

void RunLog::add(const Json& line) {
  metrics_.add(line);
  const std::string failure = metrics_.take_failure();
  if (!failure.empty()) console_.warn("{}; the lines are kept for the next attempt", failure);
}

void RunLog::plot(const std::string& tag, double value) {
  if (!events_ || !std::isfinite(value)) return;
  try {
    events_->scalar(tag, state_.step, value, wall_clock_seconds());
  } catch (const Error& error) {
    events_.reset();
    console_.warn("no more TensorBoard events: {}", error.what());
  }
}

}  // namespace osp
