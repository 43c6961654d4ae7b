// The command line: commands, their options and what runs them. Only command_line.cpp knows the
// library that parses; a command's file sees this header alone.
//
// A command describes its options once, as fields (osp/base/fields.h). From the description come
// parsing, checks of ranges and choices, --help and --interface:
//
//   struct EvalCommand {
//     CommonOptions common;
//     std::string model;
//     int64_t limit = 0;
//     template <class Visitor, class Self>
//     static void fields(Visitor& visit, Self& self) {
//       visit_model(visit, self.model);
//       visit.group("Benchmarks");
//       visit("limit", self.limit, Range{0, 1e12}, "items per benchmark; 0 = all");
//       CommonOptions::fields(visit, self.common);
//     }
//   };
//   void add_eval(CommandLine& line) {
//     line.command<EvalCommand>("eval", "measure perplexity", [](const EvalCommand& o) { … });
//   }
//
// Field "data_tokens" is the option --data-tokens. A field marked positional has no dashes.
//
// Names: XCommand holds all options of `osp X`; XOptions or XRequest is what the library takes, and
// is embedded in XCommand, so that an option is described where it is used; XConfig is a section of
// a recipe.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "osp/base/console.h"
#include "osp/base/fields.h"
#include "osp/base/json.h"

namespace osp {

// A command, or a part of one ("osp bench train").
class Command {
 public:
  struct Entry;
  explicit Command(Entry* entry) : entry_(entry) {}

  // Adds an option for every field that `options` describes. The struct must live until the command
  // has run; the values that it holds now are the defaults.
  template <class Options>
  void add_options(Options& options) {
    FieldTable table;
    table.add("", options);
    add_fields(table);
  }
  void add_fields(const FieldTable& table);

  // The function that runs the command after parsing; it returns the exit status (Errors are
  // thrown, main maps them).
  void runs(std::function<int()> run);
  // A part with options of its own; the command then needs one of its parts.
  Command part(const std::string& name, const std::string& help);
  // A part whose options are the fields of `Options`.
  template <class Options>
  void part(const std::string& name, const std::string& help, int (*body)(const Options&)) {
    part(name, help).runs_with(body);
  }

  // Adds the fields of a new `Options` and runs the command with them.
  template <class Options>
  void runs_with(int (*body)(const Options&)) {
    const auto options = std::make_shared<Options>();
    add_options(*options);
    runs([options, body, command = *this] {
      options->common.given = command.field_names(true);
      options->common.known = command.field_names(false);
      return body(*options);
    });
  }

 private:
  // The names of all fields, or of those that were typed.
  std::vector<std::string> field_names(bool typed) const;

  Entry* entry_;
};

// All commands of the program.
class CommandLine {
 public:
  CommandLine(const std::string& description, const std::string& version);
  ~CommandLine();

  Command command(const std::string& name, const std::string& help);
  // A command whose options are the fields of `Options`.
  template <class Options>
  void command(const std::string& name, const std::string& help, int (*body)(const Options&)) {
    command(name, help).runs_with(body);
  }
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
  // Names of the fields that were typed on the command line ("data_tokens"), by any spelling.
  std::vector<std::string> given = {};
  std::vector<std::string> known = {};  // names of all fields of the command

  bool is_given(const std::string& field) const;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("General");
    visit("quiet", self.quiet, "print no progress on stderr", {.affects_results = false});
    visit("json", self.json, "print the result as one JSON object on stdout",
          {.affects_results = false});
  }
};

// Refuses options that would change nothing: Error(usage) that names those of `fields` that were
// typed, and `why` they do not apply: "--head: is for quantized model dirs; leave it out".
void refuse_given(const CommonOptions& common, const std::vector<std::string>& fields,
                  const std::string& why);

// The positional `model` of a command that reads one.
template <class Visitor>
void visit_model(Visitor& visit, std::string& model) {
  visit("model", model, "model dir, GGUF file, training checkpoint or finished run folder",
        {.positional = true, .required = true});
}

// The positional list `model` of a command that reads several.
template <class Visitor>
void visit_models(Visitor& visit, std::vector<std::string>& models) {
  visit("model", models, "model dirs, GGUF files, training checkpoints or finished run folders",
        {.positional = true, .required = true});
}

// The positional `recipe` of a command that reads one, and --set, which changes it.
template <class Visitor, class Text, class Texts>
void visit_recipe(Visitor& visit, Text& recipe, Texts& assignments) {
  visit("recipe", recipe, "TOML file that describes the model and its training",
        {.positional = true, .required = true});
  visit.group("Recipe");
  visit("set", assignments, "value that replaces the recipe's", {.value = "SECTION.KEY=VALUE"});
}

// Prints a command's result object as one line of JSON on stdout.
void print_json(const Json& object);

// Prints a command's result: the object that `json` returns with --json, else by `print_text`.
template <class MakeJson, class PrintText>
void print_result(const CommonOptions& common, MakeJson&& json, PrintText&& print_text) {
  if (common.json) {
    print_json(json());
  } else {
    print_text();
  }
}

// One per file of this folder.
void add_tokenize(CommandLine& line);
void add_train(CommandLine& line);
void add_plan(CommandLine& line);
void add_quantize(CommandLine& line);
void add_eval(CommandLine& line);
void add_analyze(CommandLine& line);
void add_generate(CommandLine& line);
void add_score(CommandLine& line);
void add_serve(CommandLine& line);
void add_export(CommandLine& line);
void add_average(CommandLine& line);
void add_report(CommandLine& line);
void add_bench(CommandLine& line);
// The parts of bench.
void add_bench_train(Command& bench);
void add_bench_quantize(Command& bench);
void add_bench_eval(Command& bench);
void add_bench_run(Command& bench);
void add_bench_optim(Command& bench);
void add_bench_ranks(Command& bench);

}  // namespace osp
