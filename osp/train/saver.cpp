#include "osp/train/saver.h"

#include <utility>

#include "osp/base/error.h"
#include "osp/train/checkpoint.h"

namespace osp {

Saver::Saver(const SaverOptions& options, int64_t valid_step, Console& console)
    : options_(options), console_(console) {
  if (valid_step >= 0) valid_steps_.push_back(valid_step);
}

Saver::~Saver() {
  if (thread_.joinable()) thread_.join();
}

void Saver::commit(const Snapshot& snapshot) {
  try {
    commit_checkpoint(options_.run, snapshot.step, options_.manifest,
                      [&](const std::string& folder) {
                        write_snapshot(snapshot, folder, options_.tokenizer_json);
                      });
    saved_step_ = snapshot.step;
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
  if (!error_.empty()) {
    count_failure(std::exchange(error_, {}));
    return;
  }
  failures_ = 0;
  valid_steps_.push_back(std::exchange(saved_step_, -1));
  try {
    valid_steps_ = purge_checkpoints(options_.run, valid_steps_, options_.keep);
  } catch (const Error& error) {
    console_.warn("an old checkpoint was not removed: {}", error.what());
  }
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
