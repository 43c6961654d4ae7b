// Python's operators on values: equality, order, membership, arithmetic.
//
// Tested by tests/python/test_chat_template.py.
#pragma once

#include <compare>

#include "osp/template/context.h"
#include "osp/template/value.h"

namespace osp::jinja {

bool equal(Context& context, const Value& a, const Value& b);
// Order of numbers, of texts, of lists and of tuples; anything else is refused, as in Python.
std::partial_ordering order(Context& context, const Value& a, const Value& b);
// item in container
bool contains(Context& context, const Value& container, const Value& item);

Value add(Context& context, const Value& a, const Value& b);
Value subtract(Context& context, const Value& a, const Value& b);
Value multiply(Context& context, const Value& a, const Value& b);
Value divide(Context& context, const Value& a, const Value& b);
Value floor_divide(Context& context, const Value& a, const Value& b);
Value modulo(Context& context, const Value& a, const Value& b);
Value power(Context& context, const Value& a, const Value& b);
Value negate(Context& context, const Value& a);
Value positive(Context& context, const Value& a);
// a ~ b ~ …
Value concatenate(Context& context, const std::vector<Value>& parts);

// Refuses lists and dicts, which cannot be keys of a dict.
void need_hashable(Context& context, const Value& key);
// Sets or replaces the entry.
void insert(Context& context, std::vector<std::pair<Value, Value>>& entries, const Value& key,
            const Value& value);

}  // namespace osp::jinja
