#include "osp/train/loop.h"

#include <ATen/Parallel.h>
#include <torch/version.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/base/memory.h"
#include "osp/base/timing.h"
#include "osp/data/batch.h"
#include "osp/data/object_store.h"
#include "osp/data/prefetch.h"
#include "osp/ops/result_origin.h"
#include "osp/optim/routing.h"
#include "osp/optim/schedule.h"
#include "osp/ranks/ranks.h"
#include "osp/tokenizer/tokenizer.h"
#include "osp/train/agreement.h"
#include "osp/train/device.h"
#include "osp/train/ending.h"
#include "osp/train/exchange.h"
#include "osp/train/finish.h"
#include "osp/train/flops.h"
#include "osp/train/run_folder.h"
#include "osp/train/run_log.h"
#include "osp/train/saver.h"
#include "osp/train/snapshot.h"
#include "osp/train/state.h"
#include "osp/train/step.h"
#include "osp/train/training_data.h"
#include "osp/train/validation.h"

namespace osp {
namespace {

constexpr const char* kMemoryAdvice =
    "lower train.activation_memory_mb, set train.recompute_blocks = true or train.background_save "
    "= "
    "false, or choose a smaller model";

// The ranks that share this machine: LOCAL_WORLD_SIZE as their launcher sets it, or all.
int64_t ranks_here(int64_t ranks) {
  const char* text = std::getenv("LOCAL_WORLD_SIZE");
  const int64_t here = text == nullptr ? 0 : std::strtoll(text, nullptr, 10);
  return here >= 1 ? std::min(here, ranks) : ranks;
}

// Compares the estimate with the machine: Error(memory) if it cannot fit, a warning if only other
// programs are in the way. Returns the estimate of a rank in bytes.
double check_memory(const Recipe& recipe, const Routing& routing, int64_t ranks, Console& console) {
  const double each = estimate_memory(recipe, routing, ranks).total();
  if (recipe.train.device != "cpu") return each;
  require_memory(each, "training this recipe", kMemoryAdvice);
  const int64_t here = ranks_here(ranks);
  const double needed = each * static_cast<double>(here);
  const std::string work =
      here == 1
          ? "training this recipe"
          : fmt::format("training this recipe with {} ranks on this machine, at most {} each,",
                        here, format_bytes(each));
  if (const auto whole = static_cast<double>(shared_memory_bytes()); needed > whole) {
    fail(ErrorCode::memory,
         "{} needs about {} of memory, and this machine has {}: start fewer ranks on it, or {}",
         work, format_bytes(needed), format_bytes(whole), kMemoryAdvice);
  }
  const auto free = static_cast<double>(free_memory_bytes());
  if (needed > free) {
    console.warn("{} needs about {} of memory, and {} are free now: {}", work, format_bytes(needed),
                 format_bytes(free), kMemoryAdvice);
  }
  return each;
}

// Resuming may happen in another folder. "" stays.
std::string absolute_path(const std::string& path) {
  return path.empty() ? path : std::filesystem::weakly_canonical(path).string();
}

// Behind files that the first rank writes: the others wait until they are there.
void wait_for_first(const Ranks& ranks) { ranks.text_of_first("", kPatience_s); }

bool due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

// A run in progress: the loop and what it calls at each boundary between two steps.
class Run {
 public:
  Run(const Recipe& recipe, const Ranks& ranks, const TrainOptions& options, TrainingData& data,
      RunFolder& folder, const StartingWeights& start, Ending& ending, Console& console)
      : options_(options),
        data_(data),
        console_(console),
        ending_(ending),
        state_(make_state(recipe, ranks)) {
    start_or_resume(folder, start);
    ending_.reached(state_->step);
    saver_.emplace(SaverOptions{.run = folder.path,
                                .tokenizer_json = data.tokenizer_json(),
                                .manifest = run_manifest(recipe, data.fingerprint(), ranks.size()),
                                .keep = recipe.train.keep_checkpoints,
                                .max_failures = recipe.train.max_failed_saves,
                                .ranks = ranks.for_other_thread()},
                   folder.checkpoint, console);
    if (!ranks.is_first()) return;
    write_run_recipe(folder.path, recipe, start);
    const TrainConfig& train = recipe.train;
    const auto devices = static_cast<double>(ranks.size());
    PeakRate peak(train.peak_tflops * 1e12 * devices, [train, devices] {
      return devices * measured_flops_per_s(train.precision, train.device);
    });
    log_.emplace(folder.path, metrics_bytes_, *state_, data.train, std::move(peak), console);
    if (folder.steps_before > 0) log_->extended(folder.steps_before);
  }

  // Between two steps, in this order:
  //   1. leave with a checkpoint if a signal asked for it
  //   2. validate and sample if due; leave if asked meanwhile
  //   3. stop behind the last step
  //   4. save a checkpoint if due: it includes the validation, so that a resumed run repeats none.
  //      One that falls due inside a streak of skipped steps waits for its end
  //   5. run the next step and log it
  void loop() {
    try {
      run_steps();
    } catch (const LostRank&) {
      saver_->give_up();
      throw;
    } catch (const Error& error) {
      if (error.code() == ErrorCode::diverged) explain_divergence(error);
      throw;
    }
  }

  // The last checkpoint, then RUN/model, and behind it the last line of the log, so that a log
  // with that line has a model beside it. A finished run that is resumed comes here at once and
  // writes both again.
  Json finish() {
    // Save the last checkpoint; without it the run is not finished.
    save(false);
    if (saver_->last_committed() == state_->step) forget_optimizers(*state_);
    masters_to_first_rank(*state_);
    if (!state_->ranks.is_first()) return {};
    if (saver_->last_committed() != state_->step) {
      fail(ErrorCode::io, "{}: the last checkpoint could not be saved; free space and add --resume",
           options_.out);
    }
    log_->count_time();
    console_.end_status();
    forget_training(*state_);

    // Write the fused model, after its logits were compared with the unfused one's.
    const at::Tensor tokens = first_sequences(*state_, data_.first());
    const FinishedModel model = write_model(*state_, options_.out, data_.tokenizer_json(), tokens);
    console_.line(
        "{}: largest difference of the fused model's logits {:.2g} ({:.2g} of the largest)",
        model.path, model.difference.largest, model.difference.relative);
    log_->end();
    log_->sync();

    // Sum up.
    Json result{{"run", options_.out},
                {"step", state_->step},
                {"tokens", state_->step * state_->recipe.train.batch_tokens},
                {"skipped_steps", state_->guard.skipped()},
                {"seconds", state_->seconds},
                {"model", model.path},
                {"fused_logit_difference", model.difference.largest},
                {"fused_logit_relative_difference", model.difference.relative}};
    if (data_.validation)
      result["validation_loss"] = validation_loss(*state_, data_.validation_slice);
    return result;
  }

 private:
  void run_steps() {
    TrainState& state = *state_;
    const TrainConfig& train = state.recipe.train;
    bool save_is_due = false;
    const Slice own = own_sequences(state);
    Prefetcher prefetcher(data_.train, batch_plan(state.recipe), own.first, own.count, state.step,
                          train.steps);
    for (;;) {
      leave_if_asked();
      if (validate_if_due()) leave_if_asked(kPatience_s);
      if (state.step == train.steps) break;
      save_is_due = save_is_due || (due(state.step, train.checkpoint_every) && state.step > 0);
      if (save_is_due && state.guard.consecutive() == 0) {
        save(train.background_save);
        save_is_due = false;
      }
      const bool logged = due(state.step + 1, train.log_every) || state.step + 1 == train.steps;
      const StepReport report = train_step(state, data_.train, logged);
      prefetcher.reached(state.step);
      if (log_) log_->step(report);
      ending_.reached(state.step);
    }
  }

  // Says from where the run can go on. A save that is running is completed first.
  [[noreturn]] void explain_divergence(const Error& error) {
    console_.end_status();
    try {
      saver_->wait();
    } catch (const Error& failed) {
      console_.warn("{}", failed.what());
    }
    wait_for_first(state_->ranks);
    if (!state_->ranks.is_first()) throw Error(error);
    const int64_t step = saver_->last_healthy();
    if (step < 0) fail(ErrorCode::diverged, "{}; no checkpoint was saved before", error.what());
    fail(ErrorCode::diverged,
         "{}; go on from before the trouble with --resume-from step-{}, or with --init-from {} "
         "--with-optimizer in a new run of another recipe, such as a lower optim.lr",
         error.what(), step, checkpoint_path(options_.out, step));
  }

  void start_or_resume(const RunFolder& folder, const StartingWeights& start) {
    if (folder.checkpoint.step >= 0) {
      const std::string path = checkpoint_path(folder.path, folder.checkpoint.step);
      check_shared(state_->ranks, path);
      metrics_bytes_ = load_snapshot(*state_, path);
      console_.line("going on from {}", path);
    } else if (!start.from.empty()) {
      init_from(*state_, start.from, start.with_optimizer);
      console_.line("starting with the weights of {}", start.from);
    }
    // Another rank may read its files much later; all begin with the weights of the first.
    state_->ranks.patient(kPatience_s).largest(0);
    weights_of_first_rank(*state_);
  }

  // Validates and samples, on all ranks: none would have anything else to do. Returns whether there
  // was anything to do.
  bool validate_if_due() {
    TrainState& state = *state_;
    if (state.watched) return false;
    const TrainConfig& train = state.recipe.train;
    const bool last = state.step == train.steps;
    const bool validates = data_.validation && (last || due(state.step, train.validate_every));
    const bool samples =
        train.sample_every > 0 && state.step > 0 && (last || due(state.step, train.sample_every));
    try {
      Json measured;
      std::optional<std::string> sampled;
      if (validates) {
        measured =
            validate(state, data_.validation_slice, data_.tokenizer ? &*data_.tokenizer : nullptr);
      }
      if (samples) sampled = sample_text(state, *data_.tokenizer);
      // Logged together, so that a signal leaves both to the resumed run.
      if (log_ && validates) log_->validation(measured);
      if (log_ && sampled) log_->sample(train.sample_prompt, *sampled);
      state.watched = true;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::interrupted) throw;
    }
    return validates || samples;
  }

  // Saves unless this step is saved already: all ranks together, each what it owns. In the
  // foreground the save is over on return.
  void save(bool background) {
    const Ranks& ranks = state_->ranks;
    saver_->wait();
    const bool saved = saver_->last_committed() == state_->step;
    if (ranks.text_of_first(saved ? "saved" : "", kPatience_s) == "saved") return;
    const std::string lost = first_not_finite(*state_);
    if (ranks.largest(lost.empty() ? 0 : 1) > 0) {
      fail(ErrorCode::diverged, "step {}: {} holds numbers that are not finite; it is not saved",
           state_->step, lost.empty() ? "what another rank owns" : lost);
    }
    const std::string failure = sync_log();
    if (!ranks.text_of_first(failure, kPatience_s).empty()) {
      if (ranks.is_first()) saver_->count_failure(failure);
      return;
    }
    saver_->save(take_snapshot(*state_, log_ ? log_->metrics_bytes() : 0, background), background);
    if (!background) wait_for_first(ranks);
  }

  // Brings the log to the disk before a checkpoint that counts its bytes. Returns why it could not.
  std::string sync_log() {
    if (!log_) return "";
    try {
      log_->sync();
    } catch (const Error& error) {
      return error.what();
    }
    log_->count_time();
    return "";
  }

  // Leaves if a signal has asked any rank to, which all learn here. A rank that was asked while it
  // validated is here long before the others: they have `patience_s`.
  void leave_if_asked(double patience_s = 0) {
    const Ranks& ranks = state_->ranks;
    if (ranks.patient(patience_s).largest(stop_requested()) == 0) return;
    const std::string signal = stop_requested() != 0 ? stop_signal_name() : "a signal to a rank";
    save(false);
    const bool saved = saver_->last_committed() == state_->step;
    if (ranks.text_of_first(saved ? "saved" : "failed", kPatience_s) != "saved") {
      fail(ErrorCode::io, "{}: stopped by {} at step {}, and saving failed", options_.out, signal,
           state_->step);
    }
    fail(ErrorCode::interrupted, "{}: stopped by {} and saved at step {}; go on with --resume",
         options_.out, signal, state_->step);
  }

  const TrainOptions& options_;
  TrainingData& data_;
  Console& console_;
  Ending& ending_;
  std::unique_ptr<TrainState> state_;
  uint64_t metrics_bytes_ = 0;  // length of the log at the checkpoint that the run resumes from
  std::optional<RunLog> log_;
  std::optional<Saver> saver_;
};

// The resolved recipe; Error(usage) also for a schedule that cannot work.
Recipe scheduled_recipe(const Recipe& recipe, int64_t vocabulary) {
  Recipe complete = resolved_recipe(recipe, vocabulary);
  check_schedule(complete.schedule, complete.train.steps);
  return complete;
}

Routing routing_of(const Recipe& complete) {
  return route_parameters(parameter_specs(complete.model), complete.optim,
                          complete.model.head_size);
}

Json train_as(const Ranks& ranks, const Recipe& recipe, const TrainOptions& options, Ending& ending,
              Console& console) {
  ending.refuse_useless_restart();

  // Open the data.
  open_device(recipe.train.device);
  TrainingData data(recipe.data, recipe.train.validation_tokens > 0);

  // Refuse a schedule, routing, data or size that cannot work before there is a folder.
  const Recipe complete = scheduled_recipe(recipe, data.vocabulary());
  const Routing routing = routing_of(complete);
  const auto start = std::chrono::steady_clock::now();
  data.check(complete);
  if (const double seconds = seconds_since(start); seconds > 1) {
    console.line("checked {} of token shards in {}",
                 format_bytes(static_cast<double>(data.num_bytes())), format_duration(seconds));
  }
  check_ranks(ranks.size(), complete, routing);
  const double memory = check_memory(complete, routing, ranks.size(), console);
  StartingWeights weights{absolute_path(options.init_from), options.with_optimizer};
  check_agreement(ranks, complete, data.fingerprint(), weights);

  // Take the run folder and train.
  try {
    RunFolder folder = open_folder_of_first(ranks, options.out, weights, [&] {
      const ResumeChoice choice{.resume = options.resume,
                                .automatic = options.auto_resume,
                                .from = options.resume_from,
                                .ranks = ranks.size()};
      RunFolder opened =
          open_run_folder(options.out, choice, weights, complete, data.fingerprint(), console);
      ending.take_folder();
      return opened;
    });
    check_folder_is_shared(ranks, folder.path);
    ending.begin(folder.checkpoint.step);
    console.line("{} threads, instruction set {}, PyTorch {}", at::get_num_threads(),
                 instruction_set_text(), TORCH_VERSION);
    if (!ranks.alone()) {
      const int64_t groups = groups_of_step(complete, ranks.size());
      console.line("{} ranks, {} groups of sequences, at most {} a rank", ranks.size(), groups,
                   (groups + ranks.size() - 1) / ranks.size());
    }
    Run run(complete, ranks, options, data, folder, weights, ending, console);
    run.loop();
    Json result = run.finish();
    ending.finished();
    return result;
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error)) throw;
    fail(ErrorCode::memory, "{}; this recipe needs about {}: {}", out_of_memory_text(),
         format_bytes(memory), kMemoryAdvice);
  }
}

}  // namespace

Json train(const Recipe& recipe, const TrainOptions& options, Console& console) {
  Ranks ranks = Ranks::of_process();
  ranks.set_timeout(recipe.train.collective_timeout_s);
  Console quiet(true);
  Ending ending(options.out, ranks);
  try {
    return train_as(ranks, recipe, options, ending, ranks.is_first() ? console : quiet);
  } catch (const Error& error) {
    ending.failed(error);
    if (ranks.alone()) throw;
    throw Error(error.code(),
                fmt::format("rank {} of {}: {}", ranks.rank(), ranks.size(), error.what()));
  } catch (const std::exception& error) {
    ending.failed(error);
    throw;
  }
}

Recipe complete_recipe(const Recipe& recipe, Console& console) {
  if (data_exists(recipe.data)) {
    return scheduled_recipe(recipe, TrainingData(recipe.data, false).vocabulary());
  }
  for (const DataSource& source : sources_of(recipe.data)) {
    if (is_store_uri(source.path) || path_exists(source.path)) continue;
    console.warn(
        "data.{} {} does not exist: the vocabulary is the recipe's, and nothing is known "
        "of the data",
        source.name.empty() ? "path" : "source " + source.name, source.path);
    break;
  }
  return scheduled_recipe(recipe, 0);
}

Json describe_data(const Recipe& complete) {
  if (!data_exists(complete.data)) return Json::array();
  return describe_sources(TrainingData(complete.data, false), complete);
}

Json dry_run(const Recipe& recipe, int64_t ranks, Console& console) {
  // Without its data a recipe can be described, not trained.
  if (!data_exists(recipe.data)) {
    const Recipe complete = complete_recipe(recipe, console);
    check_ranks(ranks, complete, routing_of(complete));
    return describe_run(complete, ranks);
  }

  // Refuse what train() would refuse before its folder.
  open_device(recipe.train.device);
  TrainingData data(recipe.data, recipe.train.validation_tokens > 0);
  const Recipe complete = scheduled_recipe(recipe, data.vocabulary());
  const Routing routing = routing_of(complete);
  data.check(complete, false);
  check_ranks(ranks, complete, routing);
  check_memory(complete, routing, ranks, console);
  Json described = describe_run(complete, ranks);
  described["data"] = describe_sources(data, complete);
  return described;
}

}  // namespace osp
