#include "osp/template/access.h"

#include <algorithm>
#include <charconv>
#include <memory>

#include "osp/template/methods.h"
#include "osp/template/operators.h"
#include "osp/template/text.h"

namespace osp::jinja {
namespace {

Value absent(const Value& value, std::string_view name) {
  return Value::undefined(
      fmt::format("a value of type {} has no member '{}'", type_name(value), name));
}

Value method_of(const Value& value, std::string_view name) {
  auto method = std::make_shared<Callable>();
  method->what = Callable::What::method;
  method->name = name;
  method->self = value;
  return Value(std::shared_ptr<const Callable>(std::move(method)));
}

Value loop_length(Loop& loop) {
  while (loop.pull()) {
  }
  return Value::integer(static_cast<int64_t>(loop.passed.size()));
}

Value loop_attribute(Context& context, const Value& value, std::string_view name) {
  Loop& loop = value.as_loop();
  const auto index = static_cast<int64_t>(loop.index);
  const auto has_next = [&] { return loop.index + 1 < loop.passed.size() || loop.pull(); };
  if (name == "index0") return Value::integer(index);
  if (name == "index") return Value::integer(index + 1);
  if (name == "first") return Value::boolean(index == 0);
  if (name == "last") return Value::boolean(!has_next());
  if (name == "length") return loop_length(loop);
  if (name == "revindex0") return Value::integer(loop_length(loop).as_integer() - index - 1);
  if (name == "revindex") return Value::integer(loop_length(loop).as_integer() - index);
  if (name == "depth") return Value::integer(1);
  if (name == "depth0") return Value::integer(0);
  if (name == "previtem") {
    if (index == 0) return Value::undefined("there is no previous item");
    return loop.passed[loop.index - 1];
  }
  if (name == "nextitem") {
    if (!has_next()) return Value::undefined("there is no next item");
    return loop.passed[loop.index + 1];
  }
  if (name == "cycle" || name == "changed") context.unsupported("uses loop.{}", name);
  return absent(value, name);
}

bool has_elements(const Value& value) {
  if (!value.is(Kind::list)) return false;
  const Flavor flavor = value.as_list().flavor;
  return flavor != Flavor::view && flavor != Flavor::iterator;
}

Value element(Context& context, const Value& value, int64_t index) {
  if (value.is(Kind::text)) {
    const std::string& text = value.as_text();
    context.charge(1 + text.size() / 64);
    if (index < 0) index += static_cast<int64_t>(num_characters(text));
    const size_t at =
        index < 0 ? text.size() : byte_of_character_index(text, static_cast<size_t>(index));
    if (at >= text.size()) return Value::undefined("a text has no such character");
    const Value character = Value::text(text.substr(at, character_size(text[at])));
    return value.is_markup() ? character.as_markup() : character;
  }
  const std::vector<Value>& items = value.as_list().items;
  const auto size = static_cast<int64_t>(items.size());
  if (index < 0) index += size;
  if (index < 0 || index >= size) return Value::undefined("a list has no such element");
  return items[static_cast<size_t>(index)];
}

// Positions that a slice of a row of `size` takes, as Python clips them.
struct Steps {
  int64_t begin;
  int64_t step;
  size_t count;
};

int64_t clip_bound(Context& context, const Value* bound, int64_t otherwise, int64_t lowest,
                   int64_t highest, int64_t size) {
  if (bound == nullptr || bound->is(Kind::none)) return otherwise;
  context.need_defined(*bound);
  if (!bound->is_integral()) context.refuse("a slice takes integers");
  int64_t value = bound->as_integer();
  if (value < 0) value += size;
  return std::clamp(value, lowest, highest);
}

Steps steps_of(Context& context, int64_t size, const Value* begin, const Value* end,
               const Value* step_value) {
  int64_t step = 1;
  if (step_value != nullptr && !step_value->is(Kind::none)) {
    context.need_defined(*step_value);
    if (!step_value->is_integral()) context.refuse("a slice takes integers");
    step = std::clamp<int64_t>(step_value->as_integer(), -(int64_t{1} << 40), int64_t{1} << 40);
  }
  if (step == 0) context.refuse("a slice has step 0");
  const int64_t lowest = step < 0 ? -1 : 0;
  const int64_t highest = step < 0 ? size - 1 : size;
  const int64_t from =
      clip_bound(context, begin, step < 0 ? highest : lowest, lowest, highest, size);
  const int64_t to = clip_bound(context, end, step < 0 ? lowest : highest, lowest, highest, size);
  const int64_t distance = step < 0 ? from - to : to - from;
  const int64_t width = step < 0 ? -step : step;
  const int64_t count = distance <= 0 ? 0 : (distance + width - 1) / width;
  return {from, step, static_cast<size_t>(count)};
}

Value slice_text(Context& context, const std::string& text, const Value* begin, const Value* end,
                 const Value* step) {
  context.charge(1 + text.size() / 16);
  const Steps steps =
      steps_of(context, static_cast<int64_t>(num_characters(text)), begin, end, step);
  if (steps.step == 1) {
    const std::string_view rest = std::string_view(text).substr(
        byte_of_character_index(text, static_cast<size_t>(steps.begin)));
    return context.text(std::string(rest.substr(0, byte_of_character_index(rest, steps.count))));
  }
  std::vector<size_t> starts;
  for (size_t at = 0; at < text.size(); at += character_size(text[at])) starts.push_back(at);
  std::string out;
  for (size_t i = 0; i < steps.count; ++i) {
    const int64_t index = steps.begin + static_cast<int64_t>(i) * steps.step;
    const size_t at = starts[static_cast<size_t>(index)];
    out.append(text, at, character_size(text[at]));
  }
  return context.text(std::move(out));
}

}  // namespace

Value attribute(Context& context, const Value& value, std::string_view name) {
  context.need_defined(value);
  if (value.is(Kind::loop)) return loop_attribute(context, value, name);
  if (value.is(Kind::name_space)) {
    const Value* const found = value.as_namespace().find(name);
    return found != nullptr ? *found : absent(value, name);
  }
  if (has_method(value, name)) return method_of(value, name);
  if (value.is(Kind::dict)) {
    context.charge(1 + value.as_dict().entries.size() / 16);
    if (const Value* const found = value.as_dict().find(name)) return *found;
  }
  return absent(value, name);
}

Value item(Context& context, const Value& value, const Value& key) {
  context.need_defined(value);
  if (value.is(Kind::dict)) {
    const Dict& dict = value.as_dict();
    context.charge(1 + dict.entries.size() / 16);
    if (key.is(Kind::text)) {
      if (const Value* const found = dict.find(key.as_text())) return *found;
    } else {
      for (const auto& [name, member] : dict.entries) {
        if (equal(context, name, key)) return member;
      }
    }
  }
  if (key.is_integral() && (value.is(Kind::text) || has_elements(value))) {
    return element(context, value, key.as_integer());
  }
  if (!key.is(Kind::text)) return absent(value, type_name(key));
  if (value.is(Kind::loop) || value.is(Kind::name_space)) {
    return attribute(context, value, key.as_text());
  }
  if (has_method(value, key.as_text())) return method_of(value, key.as_text());
  return absent(value, key.as_text());
}

Value slice(Context& context, const Value& value, const Value* begin, const Value* end,
            const Value* step) {
  context.need_defined(value);
  if (value.is(Kind::text)) {
    const Value part = slice_text(context, value.as_text(), begin, end, step);
    return value.is_markup() ? part.as_markup() : part;
  }
  if (!has_elements(value)) {
    context.refuse("a value of type {} cannot be sliced", type_name(value));
  }
  const List& list = value.as_list();
  const Steps steps = steps_of(context, static_cast<int64_t>(list.items.size()), begin, end, step);
  std::vector<Value> items;
  for (size_t i = 0; i < steps.count; ++i) {
    const int64_t index = steps.begin + static_cast<int64_t>(i) * steps.step;
    items.push_back(list.items[static_cast<size_t>(index)]);
  }
  return context.list(std::move(items), list.flavor);
}

Value attribute_path(Context& context, const Value& value, const Value& path) {
  if (path.is_integral()) return item(context, value, path);
  if (!path.is(Kind::text)) context.refuse("an attribute is named by a text");
  Value found = value;
  for (const std::string& part : split(path.as_text(), ".", -1)) {
    int64_t index = 0;
    const char* const end = part.data() + part.size();
    const auto result = std::from_chars(part.data(), end, index);
    const bool number = !part.empty() && part[0] != '-' && result.ptr == end;
    if (number && result.ec != std::errc()) context.unsupported("uses an index of over 64 bits");
    found = item(context, found, number ? Value::integer(index) : Value::text(part));
  }
  return found;
}

}  // namespace osp::jinja
