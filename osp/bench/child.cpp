#include "osp/bench/child.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <iterator>

#include "osp/base/error.h"
#include "osp/base/timing.h"

namespace osp {
namespace {

std::string read_to_end(int descriptor) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t n = read(descriptor, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
}

std::string name_of(const std::string& entry) { return entry.substr(0, entry.find('=')); }

// This process's environment with changes.
Environment changed_environment(const Environment& changes) {
  Environment all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const bool replaced = std::ranges::any_of(
        changes, [&](const std::string& change) { return name_of(change) == name_of(*entry); });
    if (!replaced) all.emplace_back(*entry);
  }
  std::ranges::copy_if(changes, std::back_inserter(all), [](const std::string& change) {
    return change.find('=') != std::string::npos;
  });
  return all;
}

// As the system takes lists of texts.
std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (const std::string& text : texts) all.push_back(const_cast<char*>(text.c_str()));
  all.push_back(nullptr);
  return all;
}

}  // namespace

std::string own_program() { return std::filesystem::read_symlink("/proc/self/exe").string(); }

Json run_child(const std::vector<std::string>& command, const Environment& changes) {
  const auto start = std::chrono::steady_clock::now();
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) fail(ErrorCode::io, "pipe: {}", std::strerror(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  const Environment environment = changed_environment(changes);
  pid_t child = 0;
  const int error = posix_spawn(&child, command[0].c_str(), &actions, nullptr,
                                pointers(command).data(), pointers(environment).data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  const std::string output = error == 0 ? read_to_end(ends[0]) : "";
  close(ends[0]);
  if (error != 0) fail(ErrorCode::io, "cannot start {}: {}", command[0], std::strerror(error));
  int status = 0;
  rusage used = {};
  while (wait4(child, &status, 0, &used) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    const std::string end = WIFSIGNALED(status)
                                ? fmt::format("was ended by signal {}", WTERMSIG(status))
                                : fmt::format("ended with status {}", WEXITSTATUS(status));
    fail(ErrorCode::unsupported, "{} {}; its own messages are above", fmt::join(command, " "), end);
  }
  Json result = parse_json(output, command[0]);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  if (result.is_object()) {
    result[kProcess] = {{"cpu_seconds", seconds(used.ru_utime) + seconds(used.ru_stime)},
                        {"wall_seconds", seconds_since(start)}};
  }
  return result;
}

}  // namespace osp
