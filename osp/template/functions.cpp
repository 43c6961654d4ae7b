// The functions that every template can call.
#include <algorithm>
#include <ctime>

#include "osp/template/methods.h"
#include "osp/template/operators.h"
#include "osp/template/print.h"

namespace osp::jinja {
namespace {

constexpr std::string_view kFunctions[] = {"range", "namespace", "dict", "raise_exception",
                                           "strftime_now"};
constexpr int64_t kMaxRange = 100'000;  // Jinja's sandbox has the same limit

Value range_function(Context& context, const Arguments& arguments) {
  if (!arguments.named.empty()) context.refuse("range takes no named arguments");
  const Bound bound(context, "range", arguments, {"start", "stop", "step"}, 1);
  int64_t start = bound.integer(0, 0);
  int64_t stop = bound.integer(1, 0);
  if (!bound.has(1)) stop = std::exchange(start, 0);
  const int64_t step = bound.integer(2, 1);
  if (step == 0) context.refuse("range has step 0");
  std::vector<Value> items;
  int64_t value = start;
  while (step > 0 ? value < stop : value > stop) {
    if (static_cast<int64_t>(items.size()) >= kMaxRange) {
      context.refuse("range has more than {} numbers", kMaxRange);
    }
    items.push_back(Value::integer(value));
    if (__builtin_add_overflow(value, step, &value)) break;
  }
  return context.list(std::move(items), Flavor::range);
}

// The entries that dict(…) makes of a dict, of pairs, and of named arguments.
std::vector<std::pair<Value, Value>> entries_of(Context& context, const std::string& name,
                                                const Arguments& arguments) {
  std::vector<std::pair<Value, Value>> entries;
  if (arguments.positional.size() > 1) context.refuse("{} takes at most one argument", name);
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (source.is(Kind::dict)) {
      entries = source.as_dict().entries;
    } else {
      for (const Value& pair : context.iterate(source)) {
        const std::vector<Value> parts = context.iterate(pair);
        if (parts.size() != 2) context.refuse("{} takes pairs", name);
        insert(context, entries, parts[0], parts[1]);
      }
    }
  }
  for (const auto& [key, value] : arguments.named) {
    insert(context, entries, Value::text(key), value);
  }
  return entries;
}

Value namespace_function(Context& context, const Arguments& arguments) {
  Value space = context.name_space();
  for (const auto& [key, value] : entries_of(context, "namespace", arguments)) {
    if (!key.is(Kind::text)) context.unsupported("a namespace with a name that is no text");
    if (key.as_text().starts_with('_')) {
      context.refuse("a namespace cannot hold {}, which begins with _", key.as_text());
    }
    space.as_namespace().set(key.as_text(), value);
  }
  return space;
}

[[noreturn]] void raise_function(Context& context, const Arguments& arguments) {
  const Bound bound(context, "raise_exception", arguments, {"message"}, 1);
  context.refuse("the template refuses the messages: {}", to_text(context, bound[0]));
}

Value strftime_function(Context& context, const Arguments& arguments) {
  const Bound bound(context, "strftime_now", arguments, {"format"}, 1);
  const std::string& format = bound.text(0);
  if (format.empty()) return Value::text("");
  if (format.size() > 200 || format.find('\0') != format.npos) {
    context.unsupported("strftime_now with a format of more than 200 bytes or a NUL byte");
  }
  const std::time_t now = context.now.value_or(std::time(nullptr));
  std::tm local{};
  localtime_r(&now, &local);
  std::string out(16'384, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
  return context.text(std::move(out));
}

}  // namespace

bool is_function(std::string_view name) {
  return std::find(std::begin(kFunctions), std::end(kFunctions), name) != std::end(kFunctions);
}

Value call_function(Context& context, const std::string& name, const Arguments& arguments) {
  if (name == "range") return range_function(context, arguments);
  if (name == "namespace") return namespace_function(context, arguments);
  if (name == "dict") return context.dict(entries_of(context, "dict", arguments));
  if (name == "strftime_now") return strftime_function(context, arguments);
  raise_function(context, arguments);
}

}  // namespace osp::jinja
