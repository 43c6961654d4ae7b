#include "osp/template/value.h"

#include <algorithm>

namespace osp::jinja {
namespace {

template <class Pairs>
auto find_named(Pairs& pairs, std::string_view name) {
  return std::find_if(pairs.begin(), pairs.end(),
                      [&](const auto& pair) { return pair.first == name; });
}

template <class Pairs>
void set_named(Pairs& pairs, const std::string& name, Value value) {
  const auto found = find_named(pairs, name);
  if (found != pairs.end()) {
    found->second = std::move(value);
  } else {
    pairs.emplace_back(name, std::move(value));
  }
}

}  // namespace

Value Value::text(std::string value) {
  return Value(Data(std::make_shared<const std::string>(std::move(value))));
}

Value Value::as_markup() const {
  Value marked = *this;
  marked.markup_ = is(Kind::text);
  return marked;
}

Value Value::undefined(std::string what) {
  return Value(Data(Undefined{std::make_shared<const std::string>(std::move(what))}));
}

int64_t Value::as_integer() const {
  return is(Kind::boolean) ? static_cast<int64_t>(as_boolean()) : std::get<int64_t>(data_);
}

double Value::as_real() const {
  return is_integral() ? static_cast<double>(as_integer()) : std::get<double>(data_);
}

std::string Value::what() const {
  const auto& undefined = std::get<Undefined>(data_);
  return undefined.what ? *undefined.what : "a value is undefined";
}

const void* Value::address() const {
  switch (kind()) {
    case Kind::list:
      return &as_list();
    case Kind::dict:
      return &as_dict();
    case Kind::name_space:
      return &as_namespace();
    case Kind::loop:
      return &as_loop();
    case Kind::callable:
      return &as_callable();
    default:
      return nullptr;
  }
}

const Value* Dict::find(std::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (name.is(Kind::text) && name.as_text() == key) return &value;
  }
  return nullptr;
}

const Value* Namespace::find(std::string_view name) const {
  const auto found = find_named(attributes, name);
  return found == attributes.end() ? nullptr : &found->second;
}

void Namespace::set(const std::string& name, Value value) {
  set_named(attributes, name, std::move(value));
}

const Value* Scope::find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->outer.get()) {
    const auto found = find_named(scope->names, name);
    if (found != scope->names.end()) return &found->second;
  }
  return nullptr;
}

void Scope::set(const std::string& name, Value value) { set_named(names, name, std::move(value)); }

bool Loop::pull() {
  while (next < source.size()) {
    const Value item = source[next++];
    if (condition && !condition(item)) continue;
    passed.push_back(item);
    return true;
  }
  return false;
}

bool truth(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
    case Kind::integer:
      return value.as_integer() != 0;
    case Kind::real:
      return value.as_real() != 0;
    case Kind::text:
      return !value.as_text().empty();
    case Kind::list:
      return value.as_list().flavor == Flavor::iterator || !value.as_list().items.empty();
    case Kind::dict:
      return !value.as_dict().entries.empty();
    default:
      return true;
  }
}

std::string_view type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
      return "undefined";
    case Kind::none:
      return "NoneType";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
      return "int";
    case Kind::real:
      return "float";
    case Kind::text:
      return "str";
    case Kind::dict:
      return "dict";
    case Kind::name_space:
      return "namespace";
    case Kind::loop:
      return "loop";
    case Kind::callable:
      return "function";
    case Kind::list:
      break;
  }
  switch (value.as_list().flavor) {
    case Flavor::list:
      return "list";
    case Flavor::tuple:
      return "tuple";
    case Flavor::range:
      return "range";
    case Flavor::view:
      return "view of a dict";
    case Flavor::iterator:
      return "iterator";
  }
  return "list";
}

}  // namespace osp::jinja
