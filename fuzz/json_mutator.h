// Structure-aware mutation of JSON for libFuzzer: a node of the tree is changed instead of a byte,
// so that what is tested lies behind the JSON parser. Of JSON lines, one line is changed. One in
// eight mutations is libFuzzer's own.
#pragma once

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace osp::fuzz {

using Tree = nlohmann::ordered_json;

class JsonMutator {
 public:
  // `keys`: names that the reader knows.
  JsonMutator(std::span<const char* const> keys, unsigned seed) : keys_(keys), random_(seed) {}

  // The changed text, "" where the text is no JSON.
  std::string mutated(std::string_view text) {
    Tree tree = Tree::parse(text, nullptr, /*allow_exceptions=*/false);
    if (tree.is_discarded()) return "";
    std::vector<Tree*> nodes;
    collect(tree, nodes);
    change(*nodes[below(nodes.size())], nodes);
    return tree.dump(-1, ' ', false, Tree::error_handler_t::replace);
  }

  size_t below(size_t bound) { return random_() % bound; }

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
    return kValues[below(std::size(kValues))];
  }

  std::string some_key() { return keys_.empty() ? "key" : keys_[below(keys_.size())]; }

  void change(Tree& node, const std::vector<Tree*>& nodes) {
    switch (below(7)) {
      case 0:
        node = some_value();
        return;
      case 1:
        node = Tree(*nodes[below(nodes.size())]);
        return;
      case 2:
        if (node.is_structured() && !node.empty()) {
          node.erase(std::next(node.begin(), static_cast<int>(below(node.size()))));
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
          node = static_cast<int64_t>(node.get<uint64_t>() + below(5) - 2);  // may wrap
        else if (node.is_string())
          node = some_key();
        else
          node = some_value();
        return;
      default:
        if (node.is_object() && !node.empty()) {  // under another name
          const auto from = std::next(node.begin(), static_cast<int>(below(node.size())));
          const Tree value = from.value();
          node.erase(from);
          node[some_key()] = value;
        } else {
          node = some_value();
        }
    }
  }

  std::span<const char* const> keys_;
  std::minstd_rand random_;
};

inline size_t mutate_json_lines(uint8_t* data, size_t size, size_t max_size, unsigned seed,
                                std::span<const char* const> keys) {
  JsonMutator mutator(keys, seed);
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::string result;
  if (mutator.below(8) != 0) {
    // A line of the text: that in which a random byte lies.
    const size_t place = text.empty() ? 0 : mutator.below(text.size());
    const bool lines = nlohmann::json::accept(text) == false;
    size_t first = lines && place > 0 ? text.rfind('\n', place - 1) : std::string::npos;
    first = first == std::string::npos ? 0 : first + 1;
    size_t last = lines ? text.find('\n', place) : text.size();
    if (last == std::string::npos || last < first) last = text.size();
    const std::string changed = mutator.mutated(text.substr(first, last - first));
    if (!changed.empty()) result = text.substr(0, first) + changed + text.substr(last);
  }
  if (result.empty() || result.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, result.data(), result.size());
  return result.size();
}

}  // namespace osp::fuzz

// Defines libFuzzer's hook; in builds that only replay a corpus, nothing.
#ifdef OSP_LIBFUZZER
#define OSP_JSON_MUTATOR(keys)                                                           \
  extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, \
                                            unsigned seed) {                             \
    return osp::fuzz::mutate_json_lines(data, size, max_size, seed, keys);               \
  }
#else
#define OSP_JSON_MUTATOR(keys) static_assert(sizeof(keys) > 0);
#endif
