// Commands, options, parsing and the messages about wrong usage. Only this file and help_format.h
// include CLI11.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <deque>
#include <sstream>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/fields.h"
#include "osp/cli/command.h"
#include "osp/cli/help_format.h"
#include "osp/cli/option_text.h"

namespace osp {

// A command, a part, or (at the root) the program.
struct Command::Entry {
  CLI::App* app = nullptr;
  std::function<int()> run;
  // Every option with the name of its field; a deprecated spelling is one more.
  std::vector<std::pair<std::string, const CLI::Option*>> options;
  std::deque<Entry> parts;
  std::unique_ptr<CLI::App> owned;  // the root's
};

namespace {

Command::Entry& add_entry(Command::Entry& parent, const std::string& name,
                          const std::string& help) {
  Command::Entry& entry = parent.parts.emplace_back();
  entry.app = parent.app->add_subcommand(name, help)->group("Commands");
  entry.app->set_help_flag("-h,--help", "print this help and exit")->group("General");
  parent.app->require_subcommand(1);
  return entry;
}

// "bench train": the words that lead to a command or part.
std::string words_of(const CLI::App& app) {
  const CLI::App* parent = app.get_parent();
  if (parent == nullptr) return "";
  const std::string before = words_of(*parent);
  return before.empty() ? app.get_name() : before + " " + app.get_name();
}

// A deprecated spelling: accepted, not shown by --help.
bool hidden(const CLI::Option& option) { return option.get_group().empty(); }

// Long and short names of a command's options, as typed.
std::vector<std::string> option_names(const CLI::App& app, bool with_hidden) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    if (hidden(*option) && !with_hidden) continue;
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
  }
  return names;
}

// One line per command (its parts, where it has any) and option, sorted within a command: the
// interface as tests compare it.
void print_interface(const Command::Entry& entry) {
  for (const Command::Entry& part : entry.parts) print_interface(part);
  if (!entry.parts.empty()) return;
  print_out("{}\n", words_of(*entry.app));
  std::vector<std::string> lines;
  for (const CLI::Option* option : entry.app->get_options()) {
    if (option->check_lname("help")) continue;
    if (hidden(*option)) {
      lines.push_back(fmt::format("  --{} (deprecated)", option->get_lnames().at(0)));
      continue;
    }
    lines.push_back(fmt::format("  {}{}", option->get_name(option->get_positional(), true),
                                option->get_required() ? " (required)" : ""));
  }
  std::sort(lines.begin(), lines.end());
  for (const std::string& line : lines) print_out("{}\n", line);
}

// The entry that the words on the command line reached, and how many words led there.
const Command::Entry& parsed_entry(const Command::Entry& root, int& depth) {
  for (const Command::Entry& part : root.parts) {
    if (part.app->parsed()) return parsed_entry(part, ++depth);
  }
  return root;
}

std::string did_you_mean(const std::string& guess) {
  return guess.empty() ? "" : fmt::format(" (did you mean {}?)", guess);
}

// The message where a command or part is missing or mistyped; `words` are those not understood.
std::string unknown_part_message(const Command::Entry& entry,
                                 const std::vector<std::string>& words) {
  const std::string path = words_of(*entry.app);
  const std::string command = path.empty() ? "osp" : "osp " + path;
  if (words.empty()) return fmt::format("no command given; `{} --help` lists them", command);
  std::vector<std::string> names;
  for (const Command::Entry& part : entry.parts) names.push_back(part.app->get_name());
  return fmt::format("unknown command or option {}{}; `{} --help` lists them", words[0],
                     did_you_mean(nearest_name(words[0], names)), command);
}

// The parser's error in our words, with the nearest known name where one was mistyped.
std::string usage_message(const Command::Entry& root, const CLI::ParseError& error,
                          const std::vector<std::string>& all_words) {
  int depth = 0;
  const Command::Entry& entry = parsed_entry(root, depth);
  const std::vector<std::string> words(all_words.begin() + depth, all_words.end());
  if (!entry.parts.empty()) return unknown_part_message(entry, words);
  const std::string path = words_of(*entry.app);
  const std::vector<std::string> known = option_names(*entry.app, true);
  for (const std::string& typed : words) {
    const std::string word = typed.substr(0, typed.find('='));
    if (word.size() < 2 || word[0] != '-') continue;
    if (std::find(known.begin(), known.end(), word) != known.end()) continue;
    const std::string guess = nearest_name(word, option_names(*entry.app, false));
    if (guess.empty() && error.get_exit_code() != static_cast<int>(CLI::ExitCodes::ExtrasError))
      continue;
    return fmt::format("osp {}: unknown option {}{}; `osp {} --help` lists them", path, word,
                       did_you_mean(guess), path);
  }
  return fmt::format("osp {}: {}; see `osp {} --help`", path, error.what(), path);
}

// The application that the first words name: of the command, or of its part.
const CLI::App& named_app(const CLI::App& root, const std::vector<std::string>& words) {
  const CLI::App* app = &root;
  for (const std::string& word : words) {
    const auto parts =
        app->get_subcommands([&](const CLI::App* part) { return part->get_name() == word; });
    if (parts.empty()) break;
    app = parts.front();
  }
  return *app;
}

// The words with `--option=` as two: the parser would take the next word for the value, and empty
// is meant.
std::vector<std::string> with_empty_values(const CLI::App& root,
                                           const std::vector<std::string>& words) {
  const CLI::App& app = named_app(root, words);
  const auto option_of = [&](const std::string& word) {
    return word.starts_with("--") ? app.get_option_no_throw(word) : nullptr;
  };
  const auto takes_value = [&](const std::string& word) {
    const CLI::Option* option = option_of(word);
    return option != nullptr && option->get_items_expected_max() > 0;
  };
  std::vector<std::string> all;
  bool are_options = true, is_value = false;
  for (const std::string& word : words) {
    are_options = are_options && (is_value || word != "--");
    const std::string name = word.substr(0, word.find('='));
    const bool ends = are_options && !is_value && name.size() + 1 == word.size();
    const bool is_empty = ends && takes_value(name);
    if (ends && !is_empty && option_of(name) != nullptr) {
      fail(ErrorCode::usage, "{} takes no value", name);
    }
    all.push_back(is_empty ? name : word);
    if (is_empty) all.emplace_back();
    is_value = are_options && !is_value && takes_value(word);  // the next word
  }
  return all;
}

// Assigns what was typed for a field. Error(usage) names the command and the option.
void assign_words(const CLI::App& app, FieldRef field, const std::vector<std::string>& words) {
  field.name = option_name(field);
  const std::string where = "osp " + words_of(app);
  if (field.type() == FieldRef::Type::list) {
    field.assign(Json(words), where);
  } else {
    field.assign(option_value(field, words.at(0)), where);
  }
}

// An option called `name` that assigns the field; a deprecated name also warns.
CLI::Option* add_field_option(CLI::App& app, const FieldRef& field, const std::string& name,
                              bool deprecated) {
  if (bool* const* flag = std::get_if<bool*>(&field.storage)) {
    OSP_CHECK(!deprecated, "flag {} has a former name, which is not supported", field.name);
    return app.add_flag(name, **flag, option_help(field))->option_text(" ");
  }
  const CLI::callback_t assign = [&app, field, name, deprecated](const CLI::results_t& words) {
    if (deprecated) {
      Console(true).warn("{} is deprecated; use {}", name, option_name(field));
    }
    assign_words(app, field, words);
    return true;
  };
  CLI::Option* option = app.add_option(name, assign, option_help(field));
  option->option_text(field.traits.positional ? " " : option_placeholder(field));
  if (field.type() != FieldRef::Type::list) return option;
  if (field.traits.positional) return option->expected(1, -1)->allow_extra_args();
  return option->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

}  // namespace

void Command::add_fields(const FieldTable& table) {
  CLI::App& app = *entry_->app;
  for (const FieldRef& field : table.fields()) {
    CLI::Option* option = add_field_option(app, field, option_name(field), false);
    option->group(field.group.empty() ? "Options" : field.group)->required(field.traits.required);
    entry_->options.emplace_back(field.name, option);
    if (!field.traits.formerly.empty()) {
      CLI::Option* former = add_field_option(app, field, option_name(field.traits.formerly), true);
      former->group("")->excludes(option);
      entry_->options.emplace_back(field.name, former);
    }
  }
  for (const FieldRef& field : table.fields()) {
    if (field.traits.needs.empty()) continue;
    app.get_option(option_name(field))->needs(app.get_option(option_name(field.traits.needs)));
  }
}

std::vector<std::string> Command::field_names(bool typed) const {
  std::vector<std::string> names;
  for (const auto& [name, option] : entry_->options) {
    if (!typed || option->count() > 0) names.push_back(name);
  }
  return names;
}

void Command::runs(std::function<int()> run) { entry_->run = std::move(run); }

Command Command::part(const std::string& name, const std::string& help) {
  return Command(&add_entry(*entry_, name, help));
}

CommandLine::CommandLine(const std::string& description, const std::string& version)
    : root_(std::make_unique<Command::Entry>()) {
  root_->owned = std::make_unique<CLI::App>(description, "osp");
  root_->app = root_->owned.get();
  root_->app->formatter(std::make_shared<HelpFormatter>());
  root_->app->set_help_flag("-h,--help", "print this help and exit")->group("General");
  root_->app->set_version_flag("--version", version, "print the version and exit")
      ->group("General");
}

CommandLine::~CommandLine() = default;

Command CommandLine::command(const std::string& name, const std::string& help) {
  return Command(&add_entry(*root_, name, help));
}

int CommandLine::run(int argc, char** argv) {
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  if (words.size() == 1 && words[0] == "--interface") {
    print_interface(*root_);
    return 0;
  }
  std::vector<std::string> rest = with_empty_values(*root_->app, words);
  std::reverse(rest.begin(), rest.end());  // the parser takes the last word first
  try {
    root_->app->parse(std::move(rest));
  } catch (const CLI::Success& success) {  // --help, --version
    std::ostringstream text;
    root_->app->exit(success, text, text);
    write_stdout(text.str());
    return 0;
  } catch (const CLI::ParseError& error) {
    throw Error(ErrorCode::usage, usage_message(*root_, error, words));
  }
  int depth = 0;
  const Command::Entry& entry = parsed_entry(*root_, depth);
  OSP_CHECK(entry.run, "osp {}: nothing runs this command", words_of(*entry.app));
  return entry.run();
}

}  // namespace osp
