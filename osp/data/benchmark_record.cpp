#include "osp/data/benchmark_record.h"

#include <algorithm>
#include <charconv>

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/base/printable.h"

namespace osp {
namespace {

const Json& field(const BenchmarkRecord& record, const Json& object, const std::string& name) {
  if (!object.is_object()) {
    fail(ErrorCode::damaged, "{}: a JSON {} where an object with \"{}\" was expected",
         record.where(), object.type_name(), name);
  }
  const auto found = object.find(name);
  if (found == object.end()) {
    std::string names;
    for (const auto& [key, unused] : object.items()) names += (names.empty() ? "" : ", ") + key;
    fail(ErrorCode::damaged,
         "{}: no field \"{}\"; it has: {} (another layout than this benchmark's)", record.where(),
         name, printable(names, 200));
  }
  return *found;
}

std::vector<std::string> strings(const BenchmarkRecord& record, const Json& list,
                                 const std::string& name) {
  if (!list.is_array()) {
    fail(ErrorCode::damaged, "{}: field \"{}\" is a JSON {}; expected a list of strings",
         record.where(), name, list.type_name());
  }
  std::vector<std::string> result;
  for (const Json& element : list) {
    if (!element.is_string()) {
      fail(ErrorCode::damaged, "{}: field \"{}\" holds a JSON {}; expected strings", record.where(),
           name, element.type_name());
    }
    result.push_back(element.get<std::string>());
  }
  return result;
}

}  // namespace

std::string BenchmarkRecord::where() const {
  return fmt::format("{}: {} {}", file, is_row ? "row" : "line", number);
}

bool has_field(const BenchmarkRecord& record, const std::string& name) {
  return record.fields.is_object() && record.fields.contains(name);
}

std::string string_field(const BenchmarkRecord& record, const std::string& name) {
  const Json& value = field(record, record.fields, name);
  if (!value.is_string()) {
    fail(ErrorCode::damaged, "{}: field \"{}\" is a JSON {}; expected a string", record.where(),
         name, value.type_name());
  }
  return value.get<std::string>();
}

std::vector<std::string> strings_field(const BenchmarkRecord& record, const std::string& name) {
  return strings(record, field(record, record.fields, name), name);
}

std::vector<std::string> strings_field(const BenchmarkRecord& record, const std::string& name,
                                       const std::string& inner) {
  return strings(record, field(record, field(record, record.fields, name), inner),
                 name + "." + inner);
}

int64_t number_field(const BenchmarkRecord& record, const std::string& name) {
  const Json& value = field(record, record.fields, name);
  if (is_int64(value)) return value.get<int64_t>();
  int64_t number = 0;
  if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    const auto end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, number);
    if (!text.empty() && parsed.ec == std::errc() && parsed.ptr == end) return number;
  }
  fail(ErrorCode::damaged, "{}: field \"{}\" is {}; expected a whole number", record.where(), name,
       printable(json_text(value)));
}

size_t label_index(const BenchmarkRecord& record, const std::string& name, const std::string& label,
                   const std::vector<std::string>& labels) {
  const auto found = std::find(labels.begin(), labels.end(), label);
  if (found == labels.end()) {
    std::string known;
    for (const std::string& each : labels) known += (known.empty() ? "" : ", ") + each;
    fail(ErrorCode::damaged, "{}: field \"{}\" is \"{}\"; the labels are: {}", record.where(), name,
         printable(label), printable(known, 200));
  }
  return static_cast<size_t>(found - labels.begin());
}

size_t checked_label(const BenchmarkRecord& record, const std::string& name, int64_t value,
                     int64_t first, size_t count) {
  if (value < first || value - first >= static_cast<int64_t>(count)) {
    fail(ErrorCode::damaged, "{}: field \"{}\" is {}; expected {} to {}", record.where(), name,
         value, first, first + static_cast<int64_t>(count) - 1);
  }
  return static_cast<size_t>(value - first);
}

}  // namespace osp
