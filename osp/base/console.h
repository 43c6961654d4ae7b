// The output of a program: progress for people on stderr, results on stdout.
//
// A stderr that cannot be written (a closed pipe, /dev/full, a log on a full disk) is ignored: the
// work matters more than its log, so nothing here that writes to stderr throws for it. A result
// that cannot be written to stdout is an Error(io).
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace osp {

// Writes text to stderr, as much of it as the system takes.
void write_stderr(std::string_view text) noexcept;

// Writes a part of the result to stdout, which flush_stdout() completes. Error(io).
void write_stdout(std::string_view text);
// Everything written to stdout has reached the system on return. Error(io), also if a write before
// it has failed.
void flush_stdout();

// A part of the result in fmt's syntax, see write_stdout().
template <class... Args>
void print_out(fmt::format_string<Args...> format, Args&&... args) {
  write_stdout(fmt::format(format, std::forward<Args>(args)...));
}

// Opens what the caller has closed of stdin, stdout and stderr, so that no file of ours gets their
// numbers and with it what is printed. Results to a closed stdout then fail as they should.
void open_standard_streams() noexcept;

// The progress of a command. Not thread-safe: one thread reports.
class Console {
 public:
  explicit Console(bool quiet = false);

  bool quiet() const { return quiet_; }
  bool terminal() const { return terminal_; }

  // A line that stays.
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    print_line(fmt::format(format, std::forward<Args>(args)...));
  }
  // A line that must be seen even with --quiet.
  template <class... Args>
  void warn(fmt::format_string<Args...> format, Args&&... args) {
    print_warning(fmt::format(format, std::forward<Args>(args)...));
  }
  // A state that replaces the one before on a terminal; elsewhere a line at most every
  // `interval_s` seconds (given at construction of the text by the caller's own pace).
  void status(const std::string& text);
  // Ends a refreshing line, if one is shown.
  void end_status();

 private:
  void print_line(const std::string& text);
  void print_warning(const std::string& text);

  bool quiet_;
  bool terminal_;
  bool status_shown_ = false;
  double last_status_s_ = -1e9;
};

// Shows "label: done/total unit, time left" of work that begins now, with `before` done already.
// The console must outlive the result.
std::function<void(int64_t done, int64_t total)> progress_line(Console& console, std::string label,
                                                               std::string unit,
                                                               int64_t before = 0);

// "3.2 MB", "12 s", "1 h 04 min": short forms for progress lines.
std::string format_bytes(double bytes);
std::string format_duration(double seconds);
// 1234567 -> "1,234,567".
std::string format_count(long long count);

}  // namespace osp
