#include "osp/base/memory.h"

#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <new>
#include <string_view>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/file.h"

namespace osp {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

rusage usage_so_far() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage;
}

// The content of a small file of the system, "" if it cannot be read.
std::string system_file(const std::string& path) {
  try {
    return read_file(path, 1 << 20);
  } catch (const Error&) {
    return "";
  }
}

// The number that begins `text` behind white space, -1 if there is none.
int64_t leading_number(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  int64_t value = -1;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// The bytes of the line "NAME:  1234 kB" of /proc/meminfo or /proc/self/status, 0 without it.
int64_t kilobytes_of(const std::string& text, const std::string& name) {
  const size_t place = text.find(name + ":");
  if (place == std::string::npos) return 0;
  return std::max<int64_t>(0,
                           leading_number(std::string_view(text).substr(place + name.size() + 1))) *
         1024;
}

// The smallest limit of the control groups that this process is in: of version 2 its own and those
// above it.
int64_t group_limit() {
  int64_t limit = kNoLimit;
  const auto consider = [&](const std::string& path) {
    const int64_t value = leading_number(system_file(path));
    if (value > 0) limit = std::min(limit, value);
  };
  consider("/sys/fs/cgroup/memory/memory.limit_in_bytes");
  const std::string groups = system_file("/proc/self/cgroup");
  const size_t place = groups.find("0::");
  std::string group;
  if (place != std::string::npos) {
    group = groups.substr(place + 3, groups.find('\n', place) - place - 3);
  }
  for (;; group.resize(group.rfind('/'))) {
    consider("/sys/fs/cgroup" + group + "/memory.max");
    if (group.find('/') == std::string::npos) return limit;
  }
}

// The resident memory that a limit of the process allows: address space that is only reserved, such
// as libraries and stacks, counts against the limit as well, and mapped files may not count at all.
int64_t process_limit(int resource, const std::string& status, const std::string& counted) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) return kNoLimit;
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > static_cast<rlim_t>(kNoLimit)) {
    return kNoLimit;
  }
  const int64_t reserved = kilobytes_of(status, counted) - kilobytes_of(status, "VmRSS");
  return std::max<int64_t>(0, static_cast<int64_t>(limit.rlim_cur) - reserved);
}

}  // namespace

int64_t peak_memory_bytes() {
  // Not of getrusage, whose peak begins with that of the process that started this one.
  const int64_t peak = kilobytes_of(system_file("/proc/self/status"), "VmHWM");
  return peak > 0 ? peak : int64_t(usage_so_far().ru_maxrss) * 1024;  // Linux counts in KiB
}

int64_t resident_memory_bytes() { return kilobytes_of(system_file("/proc/self/status"), "VmRSS"); }

int64_t page_faults() {
  const rusage usage = usage_so_far();
  return int64_t(usage.ru_minflt) + int64_t(usage.ru_majflt);
}

int64_t shared_memory_bytes() {
  const std::string machine = system_file("/proc/meminfo");
  const int64_t whole = kilobytes_of(machine, "MemTotal") + kilobytes_of(machine, "SwapTotal");
  return std::min(whole == 0 ? kNoLimit : whole, group_limit());
}

int64_t memory_limit_bytes() {
  const std::string status = system_file("/proc/self/status");
  return std::min({shared_memory_bytes(), process_limit(RLIMIT_AS, status, "VmSize"),
                   process_limit(RLIMIT_DATA, status, "VmData")});
}

int64_t free_memory_bytes() {
  const std::string machine = system_file("/proc/meminfo");
  const int64_t free = kilobytes_of(machine, "MemAvailable") + kilobytes_of(machine, "SwapFree");
  return std::min(free, std::max<int64_t>(0, memory_limit_bytes() - resident_memory_bytes()));
}

void require_memory(double bytes, const std::string& work, const std::string& advice,
                    const std::string& how_sure) {
  const int64_t limit = memory_limit_bytes();
  if (bytes <= static_cast<double>(limit)) return;
  fail(ErrorCode::memory, "{} needs {} {} of memory, and this machine has {}: {}", work, how_sure,
       format_bytes(bytes), format_bytes(static_cast<double>(limit)), advice);
}

bool is_out_of_memory(const std::exception& error) {
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return true;
  const std::string_view text = error.what();
  for (const char* said : {"can't allocate memory", "not enough memory", "out of memory"}) {
    if (text.find(said) != std::string_view::npos) return true;
  }
  return false;
}

std::string out_of_memory_text() {
  const auto shown = [](int64_t bytes) { return format_bytes(static_cast<double>(bytes)); };
  return fmt::format(
      "out of memory: this process holds {}, this machine has {} for it, of which {} "
      "are free",
      shown(resident_memory_bytes()), shown(memory_limit_bytes()), shown(free_memory_bytes()));
}

}  // namespace osp
