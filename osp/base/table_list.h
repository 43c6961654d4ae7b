// Lists of tables in a configuration, such as the [[data.source]] of a recipe, as one field:
//
//   visit("source", table_list(self.sources, "data.source"), "a corpus of several");
//
// The field is a ParsedText whose text is a JSON array of objects. In TOML it is an array of
// tables, which replaces an inherited one as a whole; in JSON the array; with --set the JSON text.
//
// Tested by osp/base/fields_test.cpp.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/fields.h"
#include "osp/base/json_text.h"

namespace osp {

// The field of `items`, each a struct with fields of its own; `name` is for messages. Error(usage)
// naming the table, counted from 1, and its key.
template <class Item>
ParsedText table_list(std::vector<Item>& items, const std::string& name) {
  const auto parse = [name](const std::string& text) {
    const Json tables = Json::parse(text, nullptr, false);
    const bool objects = tables.is_array() &&
                         std::ranges::all_of(tables, [](const Json& t) { return t.is_object(); });
    if (!objects) {
      fail(ErrorCode::usage, "{} is {}, expected a list of tables ([[{}]] in the recipe)", name,
           text, name);
    }
    std::vector<Item> parsed(tables.size());
    for (size_t i = 0; i < parsed.size(); ++i) {
      FieldTable table;
      table.add("", parsed[i]);
      table.from_json(tables[i], name + " " + std::to_string(i + 1));
    }
    return parsed;
  };
  const auto show = [](const std::vector<Item>& shown) {
    Json tables = Json::array();
    for (Item item : shown) {
      FieldTable table;
      table.add("", item);
      tables.push_back(table.to_json());
    }
    return json_text(tables);
  };
  return parsed_text(items, parse, show);
}

}  // namespace osp
