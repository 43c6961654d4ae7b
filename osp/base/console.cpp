#include "osp/base/console.h"

#include <unistd.h>

#include <cstdio>

#include "osp/base/timing.h"

namespace osp {
namespace {

constexpr double kStatusIntervalTerminal_s = 0.1;
constexpr double kStatusIntervalFile_s = 15.0;

}  // namespace

Console::Console(bool quiet) : quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1) {}

void Console::status(const std::string& text) {
  if (quiet_) return;
  const double now = clock_seconds();
  if (now - last_status_s_ < (terminal_ ? kStatusIntervalTerminal_s : kStatusIntervalFile_s))
    return;
  last_status_s_ = now;
  if (terminal_) {
    fmt::print(stderr, "\r\033[K{}", text);
    status_shown_ = true;
  } else {
    fmt::print(stderr, "{}\n", text);
  }
  std::fflush(stderr);
}

void Console::end_status() {
  if (!status_shown_) return;
  fmt::print(stderr, "\n");
  std::fflush(stderr);
  status_shown_ = false;
}

void Console::print_line(const std::string& text) {
  if (quiet_) return;
  end_status();
  fmt::print(stderr, "{}\n", text);
  std::fflush(stderr);
}

void Console::print_warning(const std::string& text) {
  end_status();
  fmt::print(stderr, "warning: {}\n", text);
  std::fflush(stderr);
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
