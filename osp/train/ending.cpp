#include "osp/train/ending.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstdlib>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json.h"
#include "osp/base/json_text.h"
#include "osp/train/checkpoint.h"

namespace osp {
namespace {

std::string record_path(const std::string& run) { return run + "/exit.json"; }

// null instead of −1.
Json known_step(int64_t step) { return step < 0 ? Json() : Json(step); }

// The name of this start of torchrun, the same for all its restarts; "" without torchrun, or if it
// keeps no logs. torchrun's name for the job does not tell two jobs apart: it is "none" by default,
// and a job that Slurm queues again keeps its own. The folder of its logs does, whose name is that
// of the job and random letters (LOGS/JOB_ab12cd34/attempt_0/0/error.json).
std::string launch_name() {
  const char* file = std::getenv("TORCHELASTIC_ERROR_FILE");
  if (file == nullptr) return "";
  const std::string path = file;
  const size_t end = path.rfind("/attempt_");
  if (end == std::string::npos) return "";
  const std::string folder = path.substr(0, end);
  return folder.substr(folder.rfind('/') + 1);
}

Json read_record(const std::string& path) {
  if (!path_exists(path)) return {};
  const Json record = Json::parse(read_file(path, 1 << 20), nullptr, false);
  return record.is_object() ? record : Json();
}

// An entry that another program may have written in another way.
template <class Value>
Value entry_or(const Json& record, const char* name, const Value& otherwise) {
  try {
    return record.value(name, otherwise);
  } catch (const Json::exception&) {
    return otherwise;
  }
}

// While it lives no other rank on this file system reads and writes the record. The folder itself
// is locked: the file `lock` in it belongs to the run. Without locks the ranks take their chances.
class RecordLock {
 public:
  explicit RecordLock(const std::string& run)
      : descriptor_(open(run.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (descriptor_ >= 0) flock(descriptor_, LOCK_EX);
  }
  ~RecordLock() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  RecordLock(const RecordLock&) = delete;
  RecordLock& operator=(const RecordLock&) = delete;

 private:
  int descriptor_;
};

// True if what a rank has to say replaces the record that another has written.
bool replaces(const Json& record, const Json& before, bool first_rank) {
  if (before.is_null()) return true;
  const bool is_root = record["is_root_cause"].get<bool>();
  const bool was_root = entry_or(before, "is_root_cause", false);
  if (is_root != was_root) return is_root;
  return first_rank && is_root && entry_or(before, "status", -1) == record["status"].get<int>();
}

void write_record(const std::string& run, Json record) {
  if (const std::string name = launch_name(); !name.empty()) record["launch"] = name;
  write_file_atomic(record_path(run), json_text(record, 1) + "\n");
}

}  // namespace

void Ending::refuse_useless_restart() const {
  const char* restarts = std::getenv("TORCHELASTIC_RESTART_COUNT");
  if (restarts == nullptr || std::string(restarts) == "0") return;
  const Json record = read_record(record_path(run_));
  const std::string name = launch_name();
  if (record.is_null() || name.empty()) return;
  if (entry_or(record, "launch", std::string()) != name) return;
  const int status = entry_or(record, "status", 0);
  for (const ErrorCode code : {ErrorCode::usage, ErrorCode::diverged, ErrorCode::interrupted}) {
    if (exit_status(code) != status) continue;
    fail(code, "{}: not started again after exit status {}: {}", run_, status,
         entry_or(record, "cause", std::string("no cause recorded")));
  }
}

void Ending::take_folder() const {
  remove_tree(record_path(run_));
  // The launcher's note must not fail a run.
  const char* note = std::getenv("OSP_RUN_NOTE");
  if (note == nullptr) return;
  try {
    write_file_atomic(note, run_);
  } catch (const Error&) {
    return;
  }
}

void Ending::finished() const {
  if (!ranks_.is_first()) return;
  const Json record{{"ending", "finished"},
                    {"status", 0},
                    {"ranks", ranks_.size()},
                    {"step", known_step(step_)},
                    {"checkpoint", known_step(step_)}};
  write_record(run_, record);
}

void Ending::failed(const std::exception& error) const noexcept {
  if (!begun_) return;
  try {
    const auto* known = dynamic_cast<const Error*>(&error);
    const std::vector<int64_t> checkpoints = list_checkpoints(run_);
    const int status = known == nullptr ? 1 : exit_status(known->code());
    const bool stopped = known != nullptr && known->code() == ErrorCode::interrupted;
    const Json record{{"ending", stopped ? "stopped" : "failed"},
                      {"status", status},
                      {"cause", error.what()},
                      {"is_root_cause", dynamic_cast<const LostRank*>(&error) == nullptr},
                      {"rank", ranks_.rank()},
                      {"ranks", ranks_.size()},
                      {"step", known_step(step_)},
                      {"checkpoint", known_step(checkpoints.empty() ? -1 : checkpoints.back())}};
    const RecordLock lock(run_);
    if (replaces(record, read_record(record_path(run_)), ranks_.is_first())) {
      write_record(run_, record);
    }
  } catch (const std::exception&) {
    return;
  }
}

}  // namespace osp
