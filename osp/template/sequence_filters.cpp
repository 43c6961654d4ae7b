// Filters of lists and dicts.
#include <algorithm>
#include <functional>

#include "osp/template/access.h"
#include "osp/template/checks.h"
#include "osp/template/filters.h"
#include "osp/template/operators.h"
#include "osp/template/print.h"
#include "osp/template/text.h"

namespace osp::jinja {
namespace {

Value length_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "length", arguments, {});
  size_t size = 0;
  if (value.is(Kind::text)) {
    context.charge(value.as_text().size() / 64);
    size = num_characters(value.as_text());
  } else if (value.is(Kind::dict)) {
    size = value.as_dict().entries.size();
  } else if (value.is(Kind::list) && value.as_list().flavor != Flavor::iterator) {
    size = value.as_list().items.size();
  } else if (!value.is(Kind::undefined)) {
    context.refuse("a value of type {} has no length", type_name(value));
  }
  return Value::integer(static_cast<int64_t>(size));
}

Value first_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "first", arguments, {});
  if (value.is(Kind::text) && !value.as_text().empty()) {
    return Value::text(value.as_text().substr(0, character_size(value.as_text()[0])));
  }
  const std::vector<Value> items = context.iterate(value);
  return items.empty() ? Value::undefined("there is no first item") : items.front();
}

// Error for what Python's reversed() refuses: it needs elements, or the keys of a dict.
void need_reversible(Context& context, const Value& value) {
  if (value.is(Kind::list) && value.as_list().flavor == Flavor::iterator) {
    context.refuse("an iterator has no last item");
  }
}

Value last_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "last", arguments, {});
  need_reversible(context, value);
  const std::vector<Value> items = context.iterate(value);
  return items.empty() ? Value::undefined("there is no last item") : items.back();
}

Value reverse_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "reverse", arguments, {});
  if (value.is(Kind::text)) {
    std::vector<Value> characters = context.iterate(value);
    std::string out;
    for (size_t i = characters.size(); i > 0; --i) out += characters[i - 1].as_text();
    return context.text(std::move(out));
  }
  const bool makes_list = value.is(Kind::list) && value.as_list().flavor == Flavor::iterator;
  std::vector<Value> items = context.iterate(value);
  std::reverse(items.begin(), items.end());
  return context.list(std::move(items), makes_list ? Flavor::list : Flavor::iterator);
}

Value list_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "list", arguments, {});
  return context.list(context.iterate(value));
}

Value items_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "items", arguments, {});
  std::vector<Value> items;
  if (value.is(Kind::dict)) {
    for (const auto& [key, member] : value.as_dict().entries) {
      items.push_back(context.list({key, member}, Flavor::tuple));
    }
  } else if (!value.is(Kind::undefined)) {
    context.refuse("items takes a dict, found {}", type_name(value));
  }
  return context.list(std::move(items), Flavor::iterator);
}

Value join_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "join", arguments, {"d", "attribute"});
  const std::string between = bound.has(0) ? to_text(context, bound[0]) : "";
  std::string out;
  bool first = true;
  for (const Value& part : context.iterate(value)) {
    if (!std::exchange(first, false)) out += between;
    out += to_text(context, bound.has_value(1) ? attribute_path(context, part, bound[1]) : part);
    context.charge_text(out.size() > kMaxTextBytes ? out.size() : between.size());
  }
  return context.text(std::move(out));
}

// The name of a filter or test that is the first of `arguments`, and the rest as its own.
struct Inner {
  std::string name;
  Arguments arguments;
};

Inner inner_of(Context& context, const char* filter, const Arguments& arguments, size_t at) {
  const Value& name = arguments.positional[at];
  if (!name.is(Kind::text)) context.refuse("{} takes a name as a text", filter);
  Inner inner{.name = name.as_text(), .arguments = {}};
  inner.arguments.positional.assign(
      arguments.positional.begin() + static_cast<std::ptrdiff_t>(at) + 1,
      arguments.positional.end());
  inner.arguments.named = arguments.named;
  return inner;
}

Value map_filter(Context& context, const Value& value, const Arguments& arguments) {
  std::vector<Value> out;
  if (!truth(value)) return context.list({}, Flavor::iterator);  // none too
  if (arguments.positional.empty()) {
    const Bound bound(context, "map", arguments, {"attribute", "default"}, 1);
    for (const Value& each : context.iterate(value)) {
      Value found = attribute_path(context, each, bound[0]);
      if (found.is(Kind::undefined) && bound.has_value(1)) found = bound[1];
      out.push_back(std::move(found));
    }
    return context.list(std::move(out), Flavor::iterator);
  }
  const Inner inner = inner_of(context, "map", arguments, 0);
  if (!is_filter(inner.name)) context.unsupported("the filter {} is unknown", inner.name);
  for (const Value& each : context.iterate(value)) {
    out.push_back(apply_filter(context, inner.name, each, inner.arguments));
  }
  return context.list(std::move(out), Flavor::iterator);
}

// select, reject, selectattr and rejectattr.
template <bool ByAttribute, bool Keeps>
Value select_filter(Context& context, const Value& value, const Arguments& arguments) {
  if (!truth(value)) return context.list({}, Flavor::iterator);  // none too
  const size_t at = ByAttribute ? 1 : 0;
  if (arguments.positional.size() < at) context.refuse("selectattr takes an attribute");
  std::function<bool(const Value&)> holds = truth;
  if (arguments.positional.size() > at) {
    const Inner inner = inner_of(context, "select", arguments, at);
    if (!is_check(inner.name)) context.unsupported("the test {} is unknown", inner.name);
    holds = [&context, inner](const Value& tested) {
      return check(context, inner.name, tested, inner.arguments);
    };
  }
  std::vector<Value> out;
  for (const Value& each : context.iterate(value)) {
    const Value tested =
        ByAttribute ? attribute_path(context, each, arguments.positional[0]) : each;
    if (holds(tested) == Keeps) out.push_back(each);
  }
  return context.list(std::move(out), Flavor::iterator);
}

Value small_letters(Context& context, const Value& value) {
  if (!value.is(Kind::text)) return value;
  context.charge_text(value.as_text().size() * 2);
  return Value::text(lower(value.as_text()));
}

// The key that items are compared by: themselves or an attribute, in small letters.
Value compare_key(Context& context, const Value& value, const Value* attribute_of,
                  bool ignore_case) {
  const Value key = attribute_of == nullptr ? value : attribute_path(context, value, *attribute_of);
  return ignore_case ? small_letters(context, key) : key;
}

// The key that items are sorted by: themselves, or the list of attributes that `attribute_of` names
// with commas between them. Being a list, two undefined attributes are equal.
Value sort_key(Context& context, const Value& value, const Value* attribute_of, bool ignore_case) {
  if (attribute_of == nullptr || !attribute_of->is(Kind::text)) {
    return compare_key(context, value, attribute_of, ignore_case);
  }
  std::vector<Value> keys;
  for (std::string& path : split(attribute_of->as_text(), ",", -1)) {
    const Value name = Value::text(std::move(path));
    keys.push_back(compare_key(context, value, &name, ignore_case));
  }
  return context.list(std::move(keys));
}

std::vector<Value> sorted(Context& context, std::vector<Value> items, bool reverse,
                          const std::function<Value(const Value&)>& key_of) {
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& each : items) {
    Value key = key_of(each);
    keyed.emplace_back(std::move(key), std::move(each));
  }
  const auto less = [&](const auto& a, const auto& b) {
    return reverse ? order(context, b.first, a.first) < 0 : order(context, a.first, b.first) < 0;
  };
  std::stable_sort(keyed.begin(), keyed.end(), less);
  std::vector<Value> out;
  for (auto& pair : keyed) out.push_back(std::move(pair.second));
  return out;
}

Value sort_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const Value* const by = bound.has_value(2) ? &bound[2] : nullptr;
  return context.list(sorted(
      context, context.iterate(value), bound.flag(0, false),
      [&](const Value& each) { return sort_key(context, each, by, !bound.flag(1, false)); }));
}

Value dictsort_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = bound.has(1) ? bound.text(1) : "key";
  if (by != "key" && by != "value") context.refuse("dictsort sorts by key or by value");
  context.need_defined(value);
  if (!value.is(Kind::dict)) context.refuse("dictsort takes a dict");
  const size_t index = by == "key" ? 0 : 1;
  std::vector<Value> pairs = context.iterate(items_filter(context, value, {}));
  return context.list(
      sorted(context, std::move(pairs), bound.flag(2, false), [&](const Value& pair) {
        return sort_key(context, pair.as_list().items[index], nullptr, !bound.flag(0, false));
      }));
}

Value unique_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "unique", arguments, {"case_sensitive", "attribute"});
  const Value* const by = bound.has_value(1) ? &bound[1] : nullptr;
  std::vector<Value> seen;
  std::vector<Value> out;
  for (const Value& each : context.iterate(value)) {
    const Value key = compare_key(context, each, by, !bound.flag(0, false));
    need_hashable(context, key);
    const bool known = std::any_of(seen.begin(), seen.end(),
                                   [&](const Value& other) { return equal(context, other, key); });
    if (known) continue;
    seen.push_back(key);
    out.push_back(each);
  }
  return context.list(std::move(out), Flavor::iterator);
}

template <bool Largest>
Value extreme_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, Largest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  const Value* const by = bound.has_value(1) ? &bound[1] : nullptr;
  const std::vector<Value> items = context.iterate(value);
  if (items.empty()) return Value::undefined("there is no item");
  const auto key_of = [&](const Value& each) {
    return compare_key(context, each, by, !bound.flag(0, false));
  };
  size_t best = 0;
  Value best_key = key_of(items[0]);
  for (size_t i = 1; i < items.size(); ++i) {
    Value key = key_of(items[i]);
    const bool better =
        Largest ? order(context, key, best_key) > 0 : order(context, key, best_key) < 0;
    if (!better) continue;
    best = i;
    best_key = std::move(key);
  }
  return items[best];
}

Value sum_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "sum", arguments, {"attribute", "start"});
  Value total = bound.get(1, Value::integer(0));
  if (total.is(Kind::text)) context.refuse("sum adds no texts (use join)");
  for (const Value& each : context.iterate(value)) {
    total =
        add(context, total, bound.has_value(0) ? attribute_path(context, each, bound[0]) : each);
  }
  return total;
}

constexpr FilterRow kSequenceFilters[] = {
    {"length", length_filter},
    {"count", length_filter},
    {"first", first_filter},
    {"last", last_filter},
    {"reverse", reverse_filter},
    {"list", list_filter},
    {"items", items_filter},
    {"join", join_filter},
    {"map", map_filter},
    {"select", select_filter<false, true>},
    {"reject", select_filter<false, false>},
    {"selectattr", select_filter<true, true>},
    {"rejectattr", select_filter<true, false>},
    {"sort", sort_filter},
    {"dictsort", dictsort_filter},
    {"unique", unique_filter},
    {"min", extreme_filter<false>},
    {"max", extreme_filter<true>},
    {"sum", sum_filter},
};

}  // namespace

Filter find_sequence_filter(std::string_view name) {
  const auto* const found = std::find_if(std::begin(kSequenceFilters), std::end(kSequenceFilters),
                                         [&](const FilterRow& row) { return row.name == name; });
  return found == std::end(kSequenceFilters) ? nullptr : found->apply;
}

}  // namespace osp::jinja
