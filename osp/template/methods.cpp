#include "osp/template/methods.h"

#include <algorithm>

#include "osp/template/operators.h"
#include "osp/template/print.h"
#include "osp/template/text.h"
#include "osp/template/text_format.h"

namespace osp::jinja {
namespace {

constexpr std::string_view kTextMethods[] = {
    "capitalize",   "casefold",    "center",    "count",      "encode",       "endswith",
    "expandtabs",   "find",        "format",    "format_map", "index",        "isalnum",
    "isalpha",      "isascii",     "isdecimal", "isdigit",    "isidentifier", "islower",
    "isnumeric",    "isprintable", "isspace",   "istitle",    "isupper",      "join",
    "ljust",        "lower",       "lstrip",    "maketrans",  "partition",    "removeprefix",
    "removesuffix", "replace",     "rfind",     "rindex",     "rjust",        "rpartition",
    "rsplit",       "rstrip",      "split",     "splitlines", "startswith",   "strip",
    "swapcase",     "title",       "translate", "upper",      "zfill"};
constexpr std::string_view kListMethods[] = {"append", "clear",   "copy",   "count",
                                             "extend", "index",   "insert", "pop",
                                             "remove", "reverse", "sort"};
constexpr std::string_view kTupleMethods[] = {"count", "index"};
constexpr std::string_view kDictMethods[] = {"clear",  "copy",       "fromkeys", "get",
                                             "items",  "keys",       "pop",      "popitem",
                                             "update", "setdefault", "values"};

template <size_t N>
bool listed(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

std::optional<std::string> characters_of(const Bound& bound) {
  if (!bound.has_value(0)) return std::nullopt;
  return bound.text(0);
}

// The cost of looking for `part` at every byte of `text`.
void charge_search(Context& context, const std::string& text, const std::string& part) {
  context.charge(1 + text.size() * (16 + part.size()) / 1024);
}

Value texts(Context& context, std::vector<std::string> parts) {
  std::vector<Value> items;
  for (std::string& part : parts) items.push_back(Value::text(std::move(part)));
  return context.list(std::move(items));
}

Value strip_method(Context& context, const std::string& self, const std::string& name,
                   const Arguments& arguments) {
  const Bound bound(context, name, arguments, {"chars"});
  const std::optional<std::string> characters = characters_of(bound);
  if (characters) charge_search(context, self, *characters);
  const Sides sides{.left = name != "rstrip", .right = name != "lstrip"};
  return context.text(std::string(strip(self, characters, sides)));
}

Value split_method(Context& context, const std::string& self, const std::string& name,
                   const Arguments& arguments) {
  const Bound bound(context, name, arguments, {"sep", "maxsplit"});
  const std::optional<std::string> separator = characters_of(bound);
  if (separator && separator->empty()) context.refuse("{} takes a separator, found ''", name);
  context.charge_text(self.size());
  if (separator) charge_search(context, self, *separator);
  const int64_t most = bound.integer(1, -1);
  // Every part costs memory of its own.
  context.charge(self.size() / 8);
  return texts(context,
               name == "split" ? split(self, separator, most) : split_right(self, separator, most));
}

// startswith and endswith: of one text, or of any in a tuple.
Value affix_method(Context& context, const std::string& self, const std::string& name,
                   const Arguments& arguments) {
  if (arguments.positional.size() > 1) context.unsupported("{} with a position", name);
  const Bound bound(context, name, arguments, {"affix"}, 1);
  const bool start = name == "startswith";
  const auto holds = [&](const Value& affix) {
    context.need_defined(affix);
    if (!affix.is(Kind::text)) {
      context.refuse("{} takes a text, found {}", name, type_name(affix));
    }
    context.charge(1 + affix.as_text().size() / 64);
    return start ? self.starts_with(affix.as_text()) : self.ends_with(affix.as_text());
  };
  const Value& affix = bound[0];
  if (!affix.is(Kind::list) || affix.as_list().flavor != Flavor::tuple) {
    return Value::boolean(holds(affix));
  }
  const auto& items = affix.as_list().items;
  return Value::boolean(std::any_of(items.begin(), items.end(), holds));
}

Value replace_method(Context& context, const std::string& self, const Arguments& arguments) {
  const Bound bound(context, "replace", arguments, {"old", "new", "count"}, 2);
  return context.text(
      limited_replace(context, self, bound.text(0), bound.text(1), bound.integer(2, -1)));
}

Value join_method(Context& context, const std::string& self, const Arguments& arguments) {
  const Bound bound(context, "join", arguments, {"iterable"}, 1);
  context.need_defined(bound[0]);
  std::string out;
  bool first = true;
  for (const Value& part : context.iterate(bound[0])) {
    if (!part.is(Kind::text)) context.refuse("join takes texts, found {}", type_name(part));
    if (!std::exchange(first, false)) out += self;
    out += part.as_text();
    context.charge_text(out.size() > kMaxTextBytes ? out.size() : self.size());
  }
  return context.text(std::move(out));
}

Value find_method(Context& context, const std::string& self, const std::string& name,
                  const Arguments& arguments) {
  if (arguments.positional.size() > 1) context.unsupported("{} with a position", name);
  const Bound bound(context, name, arguments, {"sub"}, 1);
  charge_search(context, self, bound.text(0));
  const size_t at = name == "find" ? self.find(bound.text(0)) : self.rfind(bound.text(0));
  if (at == std::string::npos) return Value::integer(-1);
  return Value::integer(static_cast<int64_t>(num_characters(std::string_view(self).substr(0, at))));
}

Value case_method(Context& context, const std::string& self, const std::string& name) {
  context.charge_text(self.size() * 3);
  if (name == "upper") return context.text(upper(self));
  if (name == "lower") return context.text(lower(self));
  if (name == "title") return context.text(python_title(self));
  return context.text(capitalize(self));
}

Value text_method(Context& context, const std::string& self, const std::string& name,
                  const Arguments& arguments) {
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    return strip_method(context, self, name, arguments);
  }
  if (name == "split" || name == "rsplit") return split_method(context, self, name, arguments);
  if (name == "startswith" || name == "endswith") {
    return affix_method(context, self, name, arguments);
  }
  if (name == "replace") return replace_method(context, self, arguments);
  if (name == "join") return join_method(context, self, arguments);
  if (name == "find" || name == "rfind") return find_method(context, self, name, arguments);
  if (name == "upper" || name == "lower" || name == "title" || name == "capitalize") {
    const Bound bound(context, name, arguments, {});
    return case_method(context, self, name);
  }
  if (name == "count") {
    if (arguments.positional.size() > 1) context.unsupported("count with a position");
    const Bound bound(context, name, arguments, {"sub"}, 1);
    charge_search(context, self, bound.text(0));
    return Value::integer(static_cast<int64_t>(count(self, bound.text(0))));
  }
  if (name == "splitlines") {
    const Bound bound(context, name, arguments, {"keepends"});
    context.charge_text(self.size() * 2);
    return texts(context, split_lines(self, bound.flag(0, false)));
  }
  if (name == "format") return context.text(format_text(context, self, arguments));
  if (name == "removeprefix" || name == "removesuffix") {
    const Bound bound(context, name, arguments, {"affix"}, 1);
    const std::string& affix = bound.text(0);
    std::string_view rest = self;
    if (name == "removeprefix" && rest.starts_with(affix)) rest.remove_prefix(affix.size());
    if (name == "removesuffix" && rest.ends_with(affix)) rest.remove_suffix(affix.size());
    return context.text(std::string(rest));
  }
  context.unsupported("the method {} of texts is unknown", name);
}

// Of a text that is marked as HTML: what comes from it alone is marked as well.
Value markup_method(Context& context, const Value& self, const std::string& name,
                    const Arguments& arguments) {
  if (name == "replace" || name == "join" || name == "format") {
    context.unsupported("the method {} of a text marked by safe or escape", name);
  }
  const Value result = text_method(context, self.as_text(), name, arguments);
  if (!result.is(Kind::list)) return result.as_markup();
  std::vector<Value> parts;
  for (const Value& part : result.as_list().items) parts.push_back(part.as_markup());
  return context.list(std::move(parts));
}

Value dict_view(Context& context, const Dict& dict, const std::string& name) {
  std::vector<Value> items;
  for (const auto& [key, value] : dict.entries) {
    if (name == "keys") {
      items.push_back(key);
    } else if (name == "values") {
      items.push_back(value);
    } else {
      items.push_back(context.list({key, value}, Flavor::tuple));
    }
  }
  return context.list(std::move(items), Flavor::view);
}

Value dict_method(Context& context, const Dict& dict, const std::string& name,
                  const Arguments& arguments) {
  if (name == "get") {
    if (!arguments.named.empty()) context.refuse("get takes no named arguments");
    const Bound bound(context, name, arguments, {"key", "default"}, 1);
    need_hashable(context, bound[0]);
    context.charge(1 + dict.entries.size() / 4);
    for (const auto& [key, value] : dict.entries) {
      if (equal(context, key, bound[0])) return value;
    }
    return bound.get(1, Value::none());
  }
  if (name == "items" || name == "keys" || name == "values") {
    const Bound bound(context, name, arguments, {});
    return dict_view(context, dict, name);
  }
  context.unsupported("the method {} of dicts is unknown, or would change the value", name);
}

Value list_method(Context& context, const List& list, const std::string& name,
                  const Arguments& arguments) {
  if (name == "count") {
    const Bound bound(context, name, arguments, {"value"}, 1);
    return Value::integer(
        std::count_if(list.items.begin(), list.items.end(),
                      [&](const Value& item) { return equal(context, item, bound[0]); }));
  }
  if (name == "index") {
    if (arguments.positional.size() > 1) context.unsupported("index with a position");
    const Bound bound(context, name, arguments, {"value"}, 1);
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (equal(context, list.items[i], bound[0])) return Value::integer(static_cast<int64_t>(i));
    }
    context.refuse("a list does not hold what index looks for");
  }
  context.unsupported("the method {} of lists is unknown, or would change the value", name);
}

}  // namespace

std::string limited_replace(Context& context, const std::string& text, const std::string& from,
                            const std::string& to, int64_t most) {
  context.charge_text(text.size());
  charge_search(context, text, from);
  // The size of the result is known before it is made.
  size_t number = count(text, from);
  if (most >= 0) number = std::min(number, static_cast<size_t>(most));
  context.charge_text(text.size() - number * from.size() + number * to.size());
  return replace(text, from, to, most);
}

bool has_method(const Value& value, std::string_view name) {
  if (value.is(Kind::text)) return listed(kTextMethods, name);
  if (value.is(Kind::dict)) return listed(kDictMethods, name);
  if (!value.is(Kind::list)) return false;
  switch (value.as_list().flavor) {
    case Flavor::list:
      return listed(kListMethods, name);
    case Flavor::tuple:
    case Flavor::range:
      return listed(kTupleMethods, name);
    default:
      return false;
  }
}

Value call_method(Context& context, const Value& self, const std::string& name,
                  const Arguments& arguments) {
  if (self.is_markup()) return markup_method(context, self, name, arguments);
  if (self.is(Kind::text)) return text_method(context, self.as_text(), name, arguments);
  if (self.is(Kind::dict)) return dict_method(context, self.as_dict(), name, arguments);
  return list_method(context, self.as_list(), name, arguments);
}

}  // namespace osp::jinja
