// Strict JSON on top of nlohmann's lexer. Its event interface drives a handler that builds the
// value with an explicit stack, because the library's own tree builder keeps the last of two equal
// keys, knows no depth limit, skips a byte order mark and takes a NUL byte for the end of the text.
// Members are appended without the ordered map's linear search, so an object of n keys costs O(n
// log n).
#include "osp/base/json.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/printable.h"

namespace osp {
namespace {

constexpr size_t kMaxPrintedBytes = 120;

// Reads characters and lets the handler see how far the lexer has come.
class CountingIterator {
 public:
  using difference_type = std::ptrdiff_t;
  using value_type = char;
  using pointer = const char*;
  using reference = const char&;
  using iterator_category = std::input_iterator_tag;

  CountingIterator(const char* at, const char** furthest) : at_(at), furthest_(furthest) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    *furthest_ = ++at_;
    return *this;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** furthest_;
};

// Receives nlohmann's parse events and builds the value; throws osp::Error at the first violation.
class TreeBuilder {
 public:
  TreeBuilder(const std::string& where, const char* begin, int max_depth)
      : where_(where), begin_(begin), furthest_(begin), max_depth_(max_depth) {}

  const char** furthest() { return &furthest_; }
  Json take() { return std::move(root_); }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(int64_t value) { return add(value); }
  bool number_unsigned(uint64_t value) { return add(value); }
  bool number_float(double value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(Json::binary_t& value) { return add(Json::binary(std::move(value))); }

  bool start_object(size_t) { return open(Json::object()); }
  bool key(std::string& name) {
    key_ = std::move(name);
    return true;
  }
  bool end_object() {
    refuse_duplicates(stack_.back()->get_ref<const Json::object_t&>());
    stack_.pop_back();
    return true;
  }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_array() {
    stack_.pop_back();
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: <reason>"
    std::string_view reason = error.what();
    if (const size_t id_end = reason.find("] "); id_end != reason.npos) {
      reason.remove_prefix(id_end + 2);
    }
    fail(ErrorCode::damaged, "{}: not valid JSON at byte {}: {}", where_, position,
         printable(reason, kMaxPrintedBytes));
  }

 private:
  // Puts the value where the stack says and returns its place, which stays valid while it is open:
  // its container grows only after it has been closed.
  Json* place(Json&& value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      auto& elements = parent.get_ref<Json::array_t&>();
      elements.push_back(std::move(value));
      return &elements.back();
    }
    auto& members = parent.get_ref<Json::object_t&>();
    members.push_back({std::move(key_), std::move(value)});
    return &members.back().second;
  }
  bool add(Json&& value) {
    place(std::move(value));
    return true;
  }
  bool open(Json&& container) {
    if (static_cast<int>(stack_.size()) >= max_depth_) {
      fail(ErrorCode::damaged, "{}: JSON nested deeper than {} levels at byte {}", where_,
           max_depth_, furthest_ - begin_);
    }
    stack_.push_back(place(std::move(container)));
    return true;
  }
  void refuse_duplicates(const Json::object_t& members) const {
    std::vector<std::string_view> names;
    names.reserve(members.size());
    for (const auto& [name, value] : members) names.push_back(name);
    std::sort(names.begin(), names.end());
    const auto twin = std::adjacent_find(names.begin(), names.end());
    if (twin == names.end()) return;
    fail(ErrorCode::damaged, "{}: duplicate key \"{}\" in the JSON object that ends at byte {}",
         where_, printable(*twin), furthest_ - begin_);
  }

  const std::string& where_;
  const char* begin_;
  const char* furthest_;
  int max_depth_;
  Json root_;
  std::vector<Json*> stack_;
  std::string key_;
};

const Json& member(const Json& object, const std::string& key, const std::string& where) {
  if (!object.is_object()) {
    fail(ErrorCode::damaged, "{}: found {} where an object with key \"{}\" was expected", where,
         object.type_name(), key);
  }
  const auto found = object.find(key);
  if (found == object.end()) fail(ErrorCode::damaged, "{}: key \"{}\" is missing", where, key);
  return *found;
}

[[noreturn]] void wrong_type(const Json& value, const std::string& key, const std::string& where,
                             const char* expected) {
  const std::string found =
      value.is_structured() ? value.type_name()
                            : printable(value.dump(-1, ' ', true, Json::error_handler_t::replace));
  fail(ErrorCode::damaged, "{}: key \"{}\" is {}, expected {}", where, key, found, expected);
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where, int max_depth) {
  if (text.starts_with("\xEF\xBB\xBF")) {
    fail(ErrorCode::damaged, "{}: begins with a byte order mark; JSON must not have one", where);
  }
  if (const size_t nul = text.find('\0'); nul != text.npos) {
    fail(ErrorCode::damaged, "{}: NUL byte in JSON text at byte {}", where, nul);
  }
  TreeBuilder builder(where, text.data(), max_depth);
  const CountingIterator begin(text.data(), builder.furthest());
  const CountingIterator end(text.data() + text.size(), builder.furthest());
  Json::sax_parse(begin, end, &builder);
  return builder.take();
}

Json read_json_file(const std::string& path, size_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path);
}

bool is_int64(const Json& value) {
  return value.is_number_integer() &&
         (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
}

int64_t json_int(const Json& object, const std::string& key, const std::string& where) {
  const Json& value = member(object, key, where);
  if (!is_int64(value)) wrong_type(value, key, where, "a 64-bit integer");
  return value.get<int64_t>();
}

double json_number(const Json& object, const std::string& key, const std::string& where) {
  const Json& value = member(object, key, where);
  if (!value.is_number()) wrong_type(value, key, where, "a number");
  return value.get<double>();
}

bool json_bool(const Json& object, const std::string& key, const std::string& where) {
  const Json& value = member(object, key, where);
  if (!value.is_boolean()) wrong_type(value, key, where, "true or false");
  return value.get<bool>();
}

std::string json_string(const Json& object, const std::string& key, const std::string& where) {
  const Json& value = member(object, key, where);
  if (!value.is_string()) wrong_type(value, key, where, "a string");
  return value.get<std::string>();
}

}  // namespace osp
