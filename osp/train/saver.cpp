#include "osp/train/saver.h"

#include <utility>

#include "osp/base/error.h"

namespace osp {

Saver::Saver(const SaverOptions& options, const FoundCheckpoint& found, Console& console)
    : options_(options),
      console_(console),
      healthy_(found.healthy),
      in_streak_(found.in_streak),
      last_committed_(found.step) {
  options_.ranks = options_.ranks.patient(kPatience_s).until(given_up_);
}

Saver::~Saver() {
  if (thread_.joinable()) thread_.join();
}

void Saver::commit(const Snapshot& snapshot) {
  try {
    save_together(options_.ranks, options_.run, options_.manifest, snapshot,
                  options_.tokenizer_json);
    saved_step_ = snapshot.step;
    saved_healthy_ = snapshot.healthy;
  } catch (const LostRank& error) {
    error_ = error.what();
    is_lost_ = true;
  } catch (const std::exception& error) {
    error_ = error.what();
  }
}

void Saver::save(Snapshot snapshot, bool background) {
  wait();
  if (background) {
    thread_ = std::thread([this, held = std::move(snapshot)] { commit(held); });
  } else {
    commit(snapshot);
    take_result();
  }
}

void Saver::wait() {
  if (!thread_.joinable()) return;
  thread_.join();
  take_result();
}

void Saver::take_result() {
  if (is_lost_) throw LostRank(error_);
  if (!options_.ranks.is_first()) {
    error_.clear();
    return;
  }
  if (!error_.empty()) {
    count_failure(std::exchange(error_, {}));
    return;
  }
  failures_ = 0;
  last_committed_ = std::exchange(saved_step_, -1);
  (saved_healthy_ ? healthy_ : in_streak_).push_back(last_committed_);
  try {
    purge();
  } catch (const Error& error) {
    console_.warn("an old checkpoint was not removed: {}", error.what());
  }
}

void Saver::purge() {
  healthy_ = purge_checkpoints(options_.run, healthy_, options_.keep);
  const bool streak_is_over = !healthy_.empty() && healthy_.back() == last_committed_;
  in_streak_ = purge_checkpoints(options_.run, in_streak_, streak_is_over ? 0 : 1);
  remove_set_aside(options_.run, last_committed_);
}

void Saver::count_failure(const std::string& reason) {
  ++failures_;
  if (failures_ >= options_.max_failures) {
    fail(ErrorCode::io, "{}; {} saves in a row have failed (train.max_failed_saves)", reason,
         failures_);
  }
  console_.warn("{}; training goes on, {} of {} failed saves in a row", reason, failures_,
                options_.max_failures);
}

}  // namespace osp
