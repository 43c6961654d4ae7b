// The verbs of the program. Each adds its subcommand and returns what runs it.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "osp/base/console.h"
#include "osp/base/json.h"

namespace osp {

// Options that every verb has.
struct CommonOptions {
  bool quiet = false;
  bool json = false;
};

// Adds --quiet and --json to a subcommand.
void add_common_options(CLI::App& command, CommonOptions& options);

// Prints a verb's result object as one line of JSON on stdout.
void print_json(const Json& object);

// A verb: registers options on `app` and returns a function that runs it after parsing and gives
// the exit status (Errors are thrown, main maps them).
using CommandRunner = std::function<int()>;
CommandRunner add_tokenize(CLI::App& app);
CommandRunner add_train(CLI::App& app);
CommandRunner add_eval(CLI::App& app);
CommandRunner add_analyze(CLI::App& app);
CommandRunner add_generate(CLI::App& app);
CommandRunner add_export(CLI::App& app);
CommandRunner add_report(CLI::App& app);
CommandRunner add_bench(CLI::App& app);

}  // namespace osp
