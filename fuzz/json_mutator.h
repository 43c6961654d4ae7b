// Structure-aware mutation of JSON: a node of the tree is changed instead of a byte, so that what
// is tested lies behind the JSON parser. Of JSON lines, one line is changed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/mutator.h"

namespace osp::fuzz {

using Tree = nlohmann::ordered_json;

class JsonMutator {
 public:
  // `keys`: names that the reader knows.
  JsonMutator(std::span<const char* const> keys, Dice& dice) : keys_(keys), dice_(dice) {}

  // Changes one node.
  void mutate(Tree& tree) {
    std::vector<Tree*> nodes;
    collect(tree, nodes);
    change(*dice_.one_of(nodes), nodes);
  }

 private:
  static void collect(Tree& node, std::vector<Tree*>& nodes) {
    nodes.push_back(&node);
    if (!node.is_structured()) return;
    for (Tree& child : node) collect(child, nodes);
  }

  Tree some_value() {
    static const Tree kValues[] = {nullptr,
                                   true,
                                   false,
                                   0,
                                   1,
                                   -1,
                                   2,
                                   7,
                                   64,
                                   100000,
                                   2147483647,
                                   2147483648,
                                   9007199254740993,
                                   INT64_MAX,
                                   UINT64_MAX,
                                   INT64_MIN,
                                   0.5,
                                   -0.0,
                                   1e-5,
                                   1e308,
                                   3.0,
                                   "",
                                   "default",
                                   "full",
                                   "1",
                                   "\xF0\x9F\x98\x80",
                                   Tree::array(),
                                   Tree::object(),
                                   Tree::array({1, 2}),
                                   Tree::array({"a", "b"}),
                                   std::string(300, 'x')};
    return dice_.one_of(kValues);
  }

  std::string some_key() { return keys_.empty() ? "key" : dice_.one_of(keys_); }

  void change(Tree& node, const std::vector<Tree*>& nodes) {
    switch (dice_.below(7)) {
      case 0:
        node = some_value();
        return;
      case 1:
        node = Tree(*dice_.one_of(nodes));
        return;
      case 2:
        if (node.is_structured() && !node.empty()) {
          node.erase(std::next(node.begin(), static_cast<int>(dice_.below(node.size()))));
        } else {
          node = some_value();
        }
        return;
      case 3:
      case 4:
        if (node.is_object())
          node[some_key()] = some_value();
        else if (node.is_array())
          node.push_back(some_value());
        else
          node = some_value();
        return;
      case 5:
        if (node.is_number_integer())
          node = static_cast<int64_t>(node.get<uint64_t>() + dice_.below(5) - 2);  // may wrap
        else if (node.is_string())
          node = some_key();
        else
          node = some_value();
        return;
      default:
        if (node.is_object() && !node.empty()) {  // under another name
          const auto from = std::next(node.begin(), static_cast<int>(dice_.below(node.size())));
          const Tree value = from.value();
          node.erase(from);
          node[some_key()] = value;
        } else {
          node = some_value();
        }
    }
  }

  std::span<const char* const> keys_;
  Dice& dice_;
};

// The tree of a text; discarded if that is no JSON, or so deep that writing it overflows the stack.
inline Tree json_tree(std::string_view text) {
  int depth = 0, deepest = 0;
  for (const char c : text) {
    depth += c == '[' || c == '{' ? 1 : c == ']' || c == '}' ? -1 : 0;
    deepest = std::max(deepest, depth);
  }
  if (deepest > 200) return Tree(Tree::value_t::discarded);
  return Tree::parse(text, nullptr, /*allow_exceptions=*/false);
}

inline std::string json_text_of(const Tree& tree) {
  return tree.dump(-1, ' ', false, Tree::error_handler_t::replace);
}

// The document with a node changed, or the line of JSON lines in which a random byte lies; "" if
// that is no JSON. `repair(tree)` may restore what a reader checks before all else.
template <class Repair>
std::string mutated_json(std::string_view text, Dice& dice, std::span<const char* const> keys,
                         const Repair& repair) {
  const size_t place = text.empty() ? 0 : dice.below(text.size());
  const bool lines = !nlohmann::json::accept(text);
  size_t first = lines && place > 0 ? text.rfind('\n', place - 1) : std::string::npos;
  first = first == std::string::npos ? 0 : first + 1;
  size_t last = lines ? text.find('\n', place) : text.size();
  if (last == std::string::npos || last < first) last = text.size();
  Tree tree = json_tree(text.substr(first, last - first));
  if (tree.is_discarded()) return "";
  JsonMutator(keys, dice).mutate(tree);
  repair(tree);
  return std::string(text.substr(0, first)) + json_text_of(tree) + std::string(text.substr(last));
}

inline std::string mutated_json(std::string_view text, Dice& dice,
                                std::span<const char* const> keys) {
  return mutated_json(text, dice, keys, [](const Tree&) {});
}

}  // namespace osp::fuzz

#define OSP_JSON_MUTATOR(keys)                                   \
  OSP_MUTATOR([](std::string_view text, osp::fuzz::Dice& dice) { \
    return osp::fuzz::mutated_json(text, dice, keys);            \
  })
