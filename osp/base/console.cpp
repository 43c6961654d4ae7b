#include "osp/base/console.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

#include "osp/base/error.h"
#include "osp/base/timing.h"

namespace osp {
namespace {

constexpr double kStatusIntervalTerminal_s = 0.1;
constexpr double kStatusIntervalFile_s = 15.0;

[[noreturn]] void fail_stdout(int error) {
  fail(ErrorCode::io, "stdout: cannot write the result: {}",
       std::generic_category().message(error));
}

}  // namespace

void write_stderr(std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

void write_stdout(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) fail_stdout(errno);
}

void flush_stdout() {
  if (std::fflush(stdout) != 0) fail_stdout(errno);
  if (std::ferror(stdout) != 0) fail_stdout(EIO);
}

void open_standard_streams() noexcept {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) != -1 || errno != EBADF) continue;
    // The lowest free number is this one. The wrong direction: a read or write fails as before.
    if (::open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
  }
}

Console::Console(bool quiet) : quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1) {}

void Console::status(const std::string& text) {
  if (quiet_) return;
  const double now = clock_seconds();
  if (now - last_status_s_ < (terminal_ ? kStatusIntervalTerminal_s : kStatusIntervalFile_s))
    return;
  last_status_s_ = now;
  if (terminal_) {
    write_stderr("\r\033[K" + text);
    status_shown_ = true;
  } else {
    write_stderr(text + "\n");
  }
}

void Console::end_status() {
  if (!status_shown_) return;
  write_stderr("\n");
  status_shown_ = false;
}

void Console::print_line(const std::string& text) {
  if (quiet_) return;
  end_status();
  write_stderr(text + "\n");
}

void Console::print_warning(const std::string& text) {
  end_status();
  write_stderr("warning: " + text + "\n");
}

std::function<void(int64_t, int64_t)> progress_line(Console& console, std::string label,
                                                    std::string unit, int64_t before) {
  return [&console, label = std::move(label), unit = std::move(unit), before,
          start = clock_seconds()](int64_t done, int64_t total) {
    const double rate = static_cast<double>(done - before) / (clock_seconds() - start);
    const double left = static_cast<double>(total - done) / rate;
    console.status(fmt::format("{}: {}/{} {}, {} left", label, format_count(done),
                               format_count(total), unit, format_duration(left)));
  };
}

std::string format_bytes(double bytes) {
  const char* units[] = {"B", "KB", "MB", "GB", "TB"};
  int unit = 0;
  while (bytes >= 1000.0 && unit < 4) {
    bytes /= 1000.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.2f} {}", bytes, units[unit]);
}

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  const long long s = std::llround(seconds);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s / 60 % 60);
}

std::string format_count(long long count) {
  std::string digits = std::to_string(count);
  for (int i = static_cast<int>(digits.size()) - 3; i > (count < 0 ? 1 : 0); i -= 3) {
    digits.insert(static_cast<size_t>(i), 1, ',');
  }
  return digits;
}

}  // namespace osp
