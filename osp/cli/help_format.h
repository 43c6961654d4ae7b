// How --help looks: options by group, the group "General" last, sentences wrapped to the width of a
// page.
#pragma once

#include <CLI/CLI.hpp>
#include <sstream>
#include <string>

namespace osp {

class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { label("SUBCOMMAND", "COMMAND"); }

  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override {
    std::string help = make_description(app) + make_usage(app, std::move(name));
    help += make_positionals(app) + make_subcommands(app, mode);
    for (const std::string& group : app->get_groups()) {
      if (group != kLastGroup) help += group_help(app, group);
    }
    return help + group_help(app, kLastGroup);
  }

  std::string make_option(const CLI::Option* option, bool is_positional) const override {
    return line(make_option_name(option, is_positional) + make_option_opts(option),
                make_option_desc(option));
  }

  std::string make_subcommand(const CLI::App* app) const override {
    return line(app->get_name(), app->get_description());
  }

 private:
  static constexpr const char* kLastGroup = "General";
  static constexpr size_t kColumn = 28;  // where sentences begin
  static constexpr size_t kWidth = 100;

  // Options of one group under its heading; "" for a group without any, as are deprecated ones.
  std::string group_help(const CLI::App* app, const std::string& group) const {
    const auto options = app->get_options([&](const CLI::Option* option) {
      return option->get_group() == group && option->nonpositional();
    });
    return group.empty() || options.empty() ? "" : make_group(group, false, options);
  }

  // "  name      words of the sentence, wrapped under each other\n"
  static std::string line(const std::string& name, const std::string& sentence) {
    std::string out = "  " + name.substr(0, name.find_last_not_of(' ') + 1);
    size_t column = out.size();
    const auto begin_line = [&] {
      out += "\n" + std::string(kColumn, ' ');
      column = kColumn;
    };
    if (column + 2 > kColumn) {
      begin_line();
    } else {
      out.append(kColumn - column, ' ');
      column = kColumn;
    }
    std::istringstream words(sentence);
    for (std::string word; words >> word;) {
      if (column > kColumn && column + 1 + word.size() > kWidth) begin_line();
      if (column > kColumn) {
        out += ' ';
        ++column;
      }
      out += word;
      column += word.size();
    }
    return out + "\n";
  }
};

}  // namespace osp
