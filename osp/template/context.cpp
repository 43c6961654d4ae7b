#include "osp/template/context.h"

#include <algorithm>

#include "osp/base/printable.h"
#include "osp/template/text.h"
#include "osp/tokenizer/utf8.h"

namespace osp::jinja {
namespace {

int depth_of(const Value& value) {
  if (value.is(Kind::list)) return value.as_list().depth;
  if (value.is(Kind::dict)) return value.as_dict().depth;
  return 0;
}

constexpr size_t kMaxMessageBytes = 400;

}  // namespace

Context::~Context() {
  // Break the circles: a namespace may hold itself, a scope the macro that remembers it.
  for (const auto& space : namespaces_) space->attributes.clear();
  for (const auto& scope : scopes_) scope->names.clear();
}

void Context::throw_usage(const std::string& message) const {
  fail(ErrorCode::usage, "chat template, line {}: {}", line, printable(message, kMaxMessageBytes));
}

void Context::throw_unsupported(const std::string& message) const {
  fail(ErrorCode::unsupported, "chat template, line {}: {}", line,
       printable(message, kMaxMessageBytes));
}

void Context::too_much(const std::string& what) const {
  throw_unsupported("takes " + what + ", which osp does not allow");
}

Value Context::list(std::vector<Value> items, Flavor flavor) {
  charge(1 + items.size());
  if (items.size() > kMaxItems) too_much("a list of more than 1,000,000 items");
  auto made = std::make_shared<List>();
  made->flavor = flavor;
  for (const Value& item : items) made->depth = std::max(made->depth, 1 + depth_of(item));
  made->items = std::move(items);
  if (made->depth > kMaxValueDepth) too_much("lists nested more than 100 deep");
  return Value(std::move(made));
}

Value Context::dict(std::vector<std::pair<Value, Value>> entries) {
  charge(1 + entries.size());
  if (entries.size() > kMaxItems) too_much("a dict of more than 1,000,000 entries");
  auto made = std::make_shared<Dict>();
  for (const auto& [key, value] : entries) {
    made->depth = std::max({made->depth, 1 + depth_of(key), 1 + depth_of(value)});
  }
  made->entries = std::move(entries);
  if (made->depth > kMaxValueDepth) too_much("lists nested more than 100 deep");
  return Value(std::shared_ptr<const Dict>(std::move(made)));
}

Value Context::name_space() {
  charge(1);
  namespaces_.push_back(std::make_shared<Namespace>());
  return Value(namespaces_.back());
}

std::shared_ptr<Scope> Context::scope(std::shared_ptr<Scope> outer) {
  auto made = std::make_shared<Scope>();
  made->outer = std::move(outer);
  return made;
}

Value Context::from_json(const Json& json) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case Json::value_t::number_integer:
      return Value::integer(json.get<int64_t>());
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > INT64_MAX) unsupported("takes an integer of more than 64 bits");
      return Value::integer(json.get<int64_t>());
    case Json::value_t::number_float:
      return Value::real(json.get<double>());
    case Json::value_t::string:
      return text(tokenizer::replace_invalid_utf8(json.get_ref<const std::string&>()));
    case Json::value_t::array: {
      std::vector<Value> items;
      for (const Json& item : json) items.push_back(from_json(item));
      return list(std::move(items));
    }
    case Json::value_t::object: {
      std::vector<std::pair<Value, Value>> entries;
      for (const auto& [key, value] : json.items()) {
        entries.emplace_back(text(tokenizer::replace_invalid_utf8(key)), from_json(value));
      }
      return dict(std::move(entries));
    }
    default:
      return Value::none();
  }
}

std::vector<Value> Context::iterate(const Value& value) {
  std::vector<Value> items;
  if (value.is(Kind::list)) {
    List& list_of = value.as_list();
    if (list_of.flavor == Flavor::iterator && std::exchange(list_of.used, true)) return items;
    items = list_of.items;
  } else if (value.is(Kind::dict)) {
    for (const auto& entry : value.as_dict().entries) items.push_back(entry.first);
  } else if (value.is(Kind::text)) {
    const std::string& text_of = value.as_text();
    for (size_t at = 0; at < text_of.size();) {
      const size_t size = character_size(text_of[at]);
      items.push_back(Value::text(text_of.substr(at, size)));
      at += size;
      charge(2);
    }
  } else if (!value.is(Kind::undefined)) {
    refuse("a value of type {} cannot be iterated", type_name(value));
  }
  charge(items.size());
  if (items.size() > kMaxItems) too_much("a list of more than 1,000,000 items");
  return items;
}

}  // namespace osp::jinja
