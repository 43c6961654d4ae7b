#include "osp/bench/turn.h"

#include <ATen/Parallel.h>

#include <filesystem>

#include "osp/base/error.h"
#include "osp/bench/child.h"

namespace osp {
namespace {

Json run_in_turn(const TurnOptions& turn, std::vector<std::string> command,
                 const std::vector<std::string>& words, const Environment& environment = {}) {
  command.insert(command.end(), words.begin(), words.end());
  const std::vector<std::string> last = turn.words();
  command.insert(command.end(), last.begin(), last.end());
  return run_child(command, environment);
}

}  // namespace

void check_peer(const std::string& python, const std::string& script) {
  for (const std::string& needed : {python, script}) {
    if (std::filesystem::exists(needed)) continue;
    fail(ErrorCode::usage,
         "{} does not exist; run from the repository's folder, or give --python and --peer",
         needed);
  }
}

void TurnOptions::use_threads() const {
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
}

std::vector<std::string> TurnOptions::words() const {
  return {"--steps", std::to_string(steps), "--threads", std::to_string(at::get_num_threads())};
}

Json run_alone(const TurnOptions& turn, const std::string& part,
               const std::vector<std::string>& words) {
  return run_in_turn(turn, {own_program(), "bench", part, "--alone"}, words);
}

Json run_peer(const TurnOptions& turn, const std::vector<std::string>& words,
              const Environment& environment) {
  return run_in_turn(turn, {turn.python, turn.peer}, words, environment);
}

}  // namespace osp
