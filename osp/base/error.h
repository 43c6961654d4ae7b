// Errors: the one exception type of the project, its kinds and their exit statuses.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace osp {

// The kinds of errors that a caller or a script needs to tell apart.
enum class ErrorCode {
  usage,        // wrong option, key, value or combination: exit 2
  damaged,      // a file is not what it says it is: exit 3
  unsupported,  // a valid input that osp cannot handle: exit 3
  diverged,     // training went to NaN or spiked beyond the guard's limits: exit 4
  io,           // disk or operating system: exit 5
  memory,       // more memory is needed than the machine has: exit 5
  interrupted,  // stopped by a signal, can be resumed: exit 75
};

// The exit status of the program for an error of this kind.
int exit_status(ErrorCode code);

// Thrown for everything that a user or a file can cause. The message names the place, what was
// found and expected, and what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// Throws Error with a message in fmt's syntax.
template <class... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// Throws std::logic_error: a broken invariant of our own code, never caused by input.
[[noreturn]] void check_failed(const char* condition, const char* file, int line,
                               const std::string& message);

}  // namespace osp

// Our own invariants; on in every build. OSP_CHECK(condition, "format", args...).
#define OSP_CHECK(condition, ...)                                                      \
  do {                                                                                 \
    if (!(condition)) [[unlikely]] {                                                   \
      ::osp::check_failed(#condition, __FILE__, __LINE__, ::fmt::format(__VA_ARGS__)); \
    }                                                                                  \
  } while (false)
