// Members, elements and slices of values.
//
// Tested by tests/python/test_chat_template.py.
#pragma once

#include <string_view>

#include "osp/template/context.h"
#include "osp/template/value.h"

namespace osp::jinja {

// value.name: a method, then a member; undefined if there is neither.
Value attribute(Context& context, const Value& value, std::string_view name);
// value[key]: a member or an element, then a method; undefined if there is neither.
Value item(Context& context, const Value& value, const Value& key);
// value[begin:end:step] of texts, lists and tuples; absent bounds are null.
Value slice(Context& context, const Value& value, const Value* begin, const Value* end,
            const Value* step);
// The attribute of filters: "a.b.0" goes down through members and elements.
Value attribute_path(Context& context, const Value& value, const Value& path);

}  // namespace osp::jinja
