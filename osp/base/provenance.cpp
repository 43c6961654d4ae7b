#include "osp/base/provenance.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <string_view>
#include <thread>

#include "osp/base/error.h"
#include "osp/base/version.h"

namespace osp {

std::string shell_word(const std::string& word) {
  const bool plain = !word.empty() && std::all_of(word.begin(), word.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("_-./=:,+").find(c) != std::string_view::npos;
  });
  if (plain) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string process_command() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string command, word;
  while (std::getline(file, word, '\0')) {
    if (command.empty()) word.erase(0, word.rfind('/') + 1);
    command += (command.empty() ? "" : " ") + shell_word(word);
  }
  return command;
}

std::string machine_text() {
  // The name of a virtual machine's processor may fit several makes, which its numbers tell apart.
  std::string name, family, model, line;
  std::ifstream file("/proc/cpuinfo");
  while (std::getline(file, line) && !line.empty()) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const std::string value = line.substr(colon + 2);
    if (line.starts_with("model name")) name = value;
    if (line.starts_with("cpu family")) family = value;
    if (line.starts_with("model\t")) model = value;
  }
  std::string processor = name;
  if (!family.empty() && !model.empty()) {
    processor += fmt::format(" (family {}, model {})", family, model);
  }
  if (!processor.empty()) processor += ", ";
  utsname system{};
  const bool known = uname(&system) == 0;
  return fmt::format("{}{} threads{}", processor, std::thread::hardware_concurrency(),
                     known ? fmt::format(", {} {}", system.sysname, system.release) : "");
}

double load_average() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : 0;
}

void record_provenance(Json& result) {
  result["version"] = kVersion;
  result["command"] = process_command();
  result["machine"] = machine_text();
}

}  // namespace osp
