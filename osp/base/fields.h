// Configuration fields: each is described once (name, default, range or choices, sentence), and
// that description serves TOML recipes, `--set section.key=value`, help, validation, JSON and the
// hash in checkpoints.
//
// A configuration struct lists its fields in a static template function:
//
//   struct ModelConfig {
//     int64_t layers = 6;
//     bool tied = false;
//     template <class Visitor, class Self>
//     static void fields(Visitor& visit, Self& self) {
//       visit("layers", self.layers, Range{1, 1024}, "transformer blocks");
//       visit("tied", self.tied, "the head shares the embedding's matrix");
//     }
//   };
//
// Field types: bool, int64_t, double, std::string, and std::string with Choices.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>
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

// One field of one section, bound to its storage.
struct FieldRef {
  enum class Type { boolean, integer, number, text };
  std::string name;  // "section.key"
  Type type;
  void* storage;
  Range range;
  std::vector<std::string> choices;
  std::string help;
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
  // Assigns a JSON/TOML value: type, range and choices are checked (an integer is accepted where a
  // number is wanted, nothing else is converted). Error(usage) beginning with `where`.
  void assign(const std::string& name, const Json& value, const std::string& where) const;
  // "section.key=value" as on the command line; numbers as TOML writes them, text with or without
  // quotes.
  void assign_text(std::string_view assignment) const;
  // Nested object {section: {key: value}} of all current values.
  Json to_json() const;
  // Values from such an object; unknown keys are errors.
  void from_json(const Json& object, const std::string& where) const;

 private:
  struct Binder {
    FieldTable& table;
    std::string section;
    void operator()(const char* name, bool& v, const char* help) { add(name, v, {}, {}, help); }
    void operator()(const char* name, int64_t& v, Range r, const char* help) {
      add(name, v, r, {}, help);
    }
    void operator()(const char* name, double& v, Range r, const char* help) {
      add(name, v, r, {}, help);
    }
    void operator()(const char* name, std::string& v, const char* help) {
      add(name, v, {}, {}, help);
    }
    void operator()(const char* name, std::string& v, const Choices& c, const char* help) {
      add(name, v, {}, c, help);
    }
    template <class T>
    void add(const char* name, T& storage, Range range, const Choices& choices, const char* help);
  };
  std::vector<FieldRef> fields_;
};

template <class T>
void FieldTable::Binder::add(const char* name, T& storage, Range range, const Choices& choices,
                             const char* help) {
  FieldRef::Type type = FieldRef::Type::text;
  if constexpr (std::is_same_v<T, bool>) type = FieldRef::Type::boolean;
  if constexpr (std::is_same_v<T, int64_t>) type = FieldRef::Type::integer;
  if constexpr (std::is_same_v<T, double>) type = FieldRef::Type::number;
  table.fields_.push_back(
      {section.empty() ? name : section + "." + name, type, &storage, range, choices.values, help});
}

// Reads a TOML file into the table. A top-level string `inherit` names another recipe, relative to
// this file, that is applied first (at most 8 deep, no cycles). Error(usage) with file, line, key
// and the nearest known key.
void load_toml(const std::string& path, const FieldTable& table);

// SHA-256 of the canonical JSON of all fields whose name does not start with one of `except`.
std::string config_hash(const FieldTable& table, const std::vector<std::string>& except);

// The candidate with the smallest edit distance to `word` if that is at most a third of its length,
// else "".
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace osp
