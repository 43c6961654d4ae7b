// Fields: each option of a recipe or a command is described once (name, default, range or choices,
// unit, sentence, group). That description serves TOML recipes, `--set section.key=value`, the
// command line (osp/cli/command.h), help, validation, JSON and hashes.
//
// An options struct lists its fields in a static template function; its default member values are
// the defaults:
//
//   struct ModelConfig {
//     int64_t layers = 6;
//     bool tied = false;
//     template <class Visitor, class Self>
//     static void fields(Visitor& visit, Self& self) {
//       visit.group("Shape");  // heading of the following fields in --help
//       visit("layers", self.layers, Range{1, 1024}, "number of transformer blocks");
//       visit("tied", self.tied, "share the embedding's matrix with the head");
//     }
//   };
//
// Field types: bool, int64_t, uint64_t, double, std::string, std::string with Choices, a list of
// strings, and ParsedText. A struct that contains another one passes its visitor on:
// `Inner::fields(visit, self.inner)`.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "osp/base/json.h"

namespace osp {

// Closed interval of allowed numbers.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
};

// Allowed strings.
struct Choices {
  std::vector<std::string> values;
};

// A value that is assigned from text, parsed, and shown as text, such as bit widths "4-4-4".
struct ParsedText {
  std::function<void(const std::string&)> assign;  // Error(usage) for text that is not a value
  std::function<std::string()> text;
};

// The field of `value`, which `parse` makes from text and `show` turns into text again.
template <class T, class Parse, class Show>
ParsedText parsed_text(T& value, Parse parse, Show show) {
  return {[&value, parse](const std::string& text) { value = parse(text); },
          [&value, show] { return std::string(show(value)); }};
}

// Properties of a field beside its name, range and sentence.
struct FieldTraits {
  std::string unit = {};   // of a number, shown behind the default: "tokens"
  std::string value = {};  // placeholder of the value in --help: "FILE"
  // False for what a run may be resumed with another value of: results do not depend on it, or, as
  // for the path of the data and the device, are meant to be the same.
  bool affects_results = true;
  // Command line only.
  bool positional = false;
  bool required = false;
  std::string needs = {};     // name of a field that must be given as well
  std::string formerly = {};  // deprecated name, which still works but warns
};

// One field of one section, bound to its storage.
struct FieldRef {
  enum class Type { boolean, integer, number, text, list };
  using Storage = std::variant<bool*, int64_t*, uint64_t*, double*, std::string*,
                               std::vector<std::string>*, ParsedText>;
  std::string name;  // "section.key"
  Storage storage;
  Range range;
  std::vector<std::string> choices;
  std::string help;  // a sentence that makes sense alone
  std::string group;
  FieldTraits traits;

  Type type() const;
  Json value() const;
  // Assigns a JSON/TOML value: type, range and choices are checked (an integer is accepted where a
  // number is wanted, nothing else is converted). Error(usage) beginning with `where`.
  void assign(const Json& value, const std::string& where) const;
};

// All fields of a configuration, in order. The storage must outlive it.
class FieldTable {
 public:
  // Adds every field of `config` under `section` ("" for none).
  template <class Config>
  void add(const std::string& section, Config& config) {
    Binder binder{*this, section};
    Config::fields(binder, config);
  }

  const std::vector<FieldRef>& fields() const { return fields_; }
  // The field of that name, or Error(usage) that names `where` and the nearest known one.
  const FieldRef& find(const std::string& name, const std::string& where) const;
  // Assigns to the field of that name, see FieldRef.
  void assign(const std::string& name, const Json& value, const std::string& where) const;
  // "section.key=value" as on the command line; numbers as TOML writes them, text with or
  // without quotes.
  void assign_text(std::string_view assignment) const;
  // Nested object {section: {key: value}} of all current values.
  Json to_json() const;
  // Values from such an object; unknown keys are errors.
  void from_json(const Json& object, const std::string& where) const;

 private:
  struct Binder {
    FieldTable& table;
    std::string section;
    std::string current_group = {};

    void group(const std::string& name) { current_group = name; }
    void operator()(const char* name, bool& v, std::string help, FieldTraits traits = {}) {
      add(name, &v, {}, {}, std::move(help), std::move(traits));
    }
    void operator()(const char* name, int64_t& v, Range range, std::string help,
                    FieldTraits traits = {}) {
      add(name, &v, range, {}, std::move(help), std::move(traits));
    }
    void operator()(const char* name, uint64_t& v, Range range, std::string help,
                    FieldTraits traits = {}) {
      add(name, &v, range, {}, std::move(help), std::move(traits));
    }
    void operator()(const char* name, double& v, Range range, std::string help,
                    FieldTraits traits = {}) {
      add(name, &v, range, {}, std::move(help), std::move(traits));
    }
    void operator()(const char* name, std::string& v, std::string help, FieldTraits traits = {}) {
      add(name, &v, {}, {}, std::move(help), std::move(traits));
    }
    void operator()(const char* name, std::string& v, const Choices& choices, std::string help,
                    FieldTraits traits = {}) {
      add(name, &v, {}, choices, std::move(help), std::move(traits));
    }
    void operator()(const char* name, std::vector<std::string>& v, std::string help,
                    FieldTraits traits = {}) {
      add(name, &v, {}, {}, std::move(help), std::move(traits));
    }
    void operator()(const char* name, ParsedText v, std::string help, FieldTraits traits = {}) {
      add(name, std::move(v), {}, {}, std::move(help), std::move(traits));
    }
    void add(const char* name, FieldRef::Storage storage, Range range, const Choices& choices,
             std::string help, FieldTraits traits);
  };
  std::vector<FieldRef> fields_;
};

// Reads a TOML file into the table. A top-level string `inherit` names another recipe, relative to
// this file, that is applied first (at most 8 deep, no cycles). Error(usage) with file, line, key
// and the nearest known key.
void load_toml(const std::string& path, const FieldTable& table);

// The fields that affect results as one flat object {"section.key": value}, sorted by name: equal
// for equal options whatever their order of declaration.
Json results_json(const FieldTable& table);

// SHA-256 of results_json(): what a run that is resumed must share.
std::string config_hash(const FieldTable& table);

// The candidate with the smallest edit distance to `word` if that is at most a third of its length,
// else "".
std::string nearest_name(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace osp
