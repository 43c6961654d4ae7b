// The command line: commands, their options and what runs them. Only command_line.cpp knows the
// library that parses; a command's file sees this header alone.
//
//   void add_eval(CommandLine& line) {
//     auto options = std::make_shared<Options>();
//     Command command = line.command("eval", "perplexity of a model");
//     command.add("model", options->model, "model dir").required();
//     command.add("--bits", options->bits, "widths");  // shows the value it has as its default
//     command.runs([options] { return run(*options); });
//   }
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "osp/base/console.h"
#include "osp/base/json.h"

namespace CLI {
class Option;
}

namespace osp {

// What an option demands; a value, cheap to copy. Every member returns the option for the next one.
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}
  // The command cannot run without it.
  Option& required();
  // A number of the closed interval.
  Option& between(int64_t low, int64_t high);
  Option& between(double low, double high);
  Option& one_of(const std::vector<std::string>& values);
  // Only together with the other option.
  Option& needs(const Option& other);

 private:
  CLI::Option* option_;
};

// A command, or a part of one ("osp bench train").
class Command {
 public:
  struct Entry;
  explicit Command(Entry* entry) : entry_(entry) {}

  // Names that begin with "--" are options, others are positional. The target must live until the
  // command has run; what it holds now is the default.
  Option add(const std::string& name, bool& target, const std::string& help);
  Option add(const std::string& name, std::string& target, const std::string& help);
  Option add(const std::string& name, int64_t& target, const std::string& help);
  Option add(const std::string& name, uint64_t& target, const std::string& help);
  Option add(const std::string& name, int& target, const std::string& help);
  Option add(const std::string& name, double& target, const std::string& help);
  // Positional: one value or more. An option: given once for each value.
  Option add(const std::string& name, std::vector<std::string>& target, const std::string& help);

  // What runs it after parsing; gives the exit status (Errors are thrown, main maps them).
  void runs(std::function<int()> run);
  // A part with options of its own; the command then needs one of its parts.
  Command part(const std::string& name, const std::string& help);

 private:
  Entry* entry_;
};

// All commands of the program.
class CommandLine {
 public:
  CommandLine(const std::string& description, const std::string& version);
  ~CommandLine();

  Command command(const std::string& name, const std::string& help);
  // Parses the words and runs the command they name. Error(usage) in one sentence, with the nearest
  // known name where one was mistyped. --help, --version and --interface print and give 0.
  int run(int argc, char** argv);

 private:
  std::unique_ptr<Command::Entry> root_;
};

// Options that every command has.
struct CommonOptions {
  bool quiet = false;
  bool json = false;
};

// Adds --quiet and --json.
void add_common_options(Command& command, CommonOptions& options);

// Options of commands that measure a model on data: both positional model and --data are required.
struct MeasureOptions {
  CommonOptions common;
  std::string model;
  std::string data;
  int64_t max_tokens = 0;  // 0: all
};

// Adds them; `use` says what happens to the tokens ("scored", "read").
void add_measure_options(Command& command, MeasureOptions& options, const std::string& use);

// Adds the positional `model` of every command that reads one.
void add_model_option(Command& command, std::string& model);

// Prints a command's result object as one line of JSON on stdout.
void print_json(const Json& object);

// One per file of this folder.
void add_tokenize(CommandLine& line);
void add_train(CommandLine& line);
void add_quantize(CommandLine& line);
void add_eval(CommandLine& line);
void add_analyze(CommandLine& line);
void add_generate(CommandLine& line);
void add_score(CommandLine& line);
void add_export(CommandLine& line);
void add_report(CommandLine& line);
void add_bench(CommandLine& line);
// The parts of bench.
void add_bench_train(Command& bench);
void add_bench_quantize(Command& bench);
void add_bench_eval(Command& bench);
void add_bench_optim(Command& bench);

}  // namespace osp
