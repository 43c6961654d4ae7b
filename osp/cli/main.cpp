// The program: one verb per file of this folder. Options are parsed here, errors become one line on
// stderr and the documented exit status.
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/fields.h"
#include "osp/base/version.h"
#include "osp/cli/command.h"
#include "osp/ops/isa.h"

namespace osp {
namespace {

constexpr const char* kDescription =
    "osp: train language models that survive 4-bit quantization, measure why, and run them.\n"
    "Exit status: 0 done, 2 wrong usage, 3 damaged or unsupported input, 4 diverged, 5 disk or I/O,\n"
    "75 interrupted and resumable.";

struct Verb {
  CommandRunner (*add)(CLI::App&);
};

constexpr Verb kVerbs[] = {{add_tokenize}, {add_train},  {add_eval},   {add_analyze},
                           {add_generate}, {add_export}, {add_report}, {add_bench}};

// Long and short names of all options of a command, as typed.
std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
  }
  return names;
}

// One line per command and option, sorted within a command: the interface as tests compare it.
void print_interface(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands({})) {
    fmt::print("{}\n", command->get_name());
    std::vector<std::string> lines;
    for (const CLI::App* part : command->get_subcommands({})) {
      lines.push_back("  " + part->get_name());
    }
    for (const CLI::Option* option : command->get_options()) {
      if (option->check_lname("help")) continue;
      lines.push_back(fmt::format("  {}{}", option->get_name(option->get_positional(), true),
                                  option->get_required() ? " (required)" : ""));
    }
    std::sort(lines.begin(), lines.end());
    for (const std::string& line : lines) fmt::print("{}\n", line);
  }
}

// The command line's error with the nearest known name where one was mistyped.
std::string usage_message(const CLI::App& app, const CLI::ParseError& error, int argc,
                          char** argv) {
  const auto parsed = app.get_subcommands();
  if (parsed.empty()) {
    std::vector<std::string> names;
    for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
    if (argc < 2) return "no command given; `osp --help` lists them";
    const std::string guess = nearest(argv[1], names);
    return fmt::format("unknown command or option {}{}; `osp --help` lists them", argv[1],
                       guess.empty() ? "" : fmt::format(" (did you mean {}?)", guess));
  }
  const CLI::App& command = *parsed.front();
  const std::vector<std::string> known = option_names(command);
  for (int i = 2; i < argc; ++i) {
    const std::string word = std::string(argv[i]).substr(0, std::string(argv[i]).find('='));
    if (word.size() < 2 || word[0] != '-') continue;
    if (std::find(known.begin(), known.end(), word) != known.end()) continue;
    const std::string guess = nearest(word, known);
    if (guess.empty() && error.get_name() != "ExtrasError") continue;
    return fmt::format("osp {}: unknown option {}{}; `osp {} --help` lists them",
                       command.get_name(), word,
                       guess.empty() ? "" : fmt::format(" (did you mean {}?)", guess),
                       command.get_name());
  }
  return fmt::format("osp {}: {}; see `osp {} --help`", command.get_name(), error.what(),
                     command.get_name());
}

// A training step frees and allocates the same large blocks again and again: keep them instead of
// giving them back to the system, which costs a page fault for every 4 KiB.
void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
}

int run(int argc, char** argv) {
  keep_freed_memory();
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an I/O error, not a silent death
  apply_isa_environment();
  CLI::App app(kDescription, "osp");
  app.set_version_flag("--version", std::string(kVersion));
  app.require_subcommand(1);
  bool interface = false;
  app.add_flag("--interface", interface, "print all commands and options, one a line")->group("");
  std::vector<std::pair<CLI::App*, CommandRunner>> runners;
  for (const Verb& verb : kVerbs) {
    CommandRunner runner = verb.add(app);
    runners.emplace_back(app.get_subcommands({}).back(), std::move(runner));
  }
  if (argc == 2 && std::string(argv[1]) == "--interface") {
    print_interface(app);
    return 0;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    throw Error(ErrorCode::usage, usage_message(app, error, argc, argv));
  }
  for (const auto& [command, runner] : runners) {
    if (command->parsed()) return runner();
  }
  return 0;
}

}  // namespace
}  // namespace osp

int main(int argc, char** argv) {
  try {
    return osp::run(argc, argv);
  } catch (const osp::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return osp::exit_status(error.code());
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "error: out of memory; use a smaller batch or model\n");
    return 5;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
