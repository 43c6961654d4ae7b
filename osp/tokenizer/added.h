// Added and special tokens of a tokenizer.json: found in the text before anything else, longest
// first at the leftmost place, and never cut or merged.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "osp/tokenizer/bpe.h"
#include "osp/tokenizer/json.h"
#include "osp/tokenizer/normalizer.h"

namespace osp::tokenizer {

struct AddedToken {
  int32_t id;
  std::string content;
  std::string found_as;  // the content as it stands in the text: normalized if `normalized`
  std::string decoded;   // what its id means: normalized if any entry of the content says so
  bool decoded_normalized = false;
  bool single_word;  // only where no word character is beside it
  bool lstrip;       // swallows the white space on its left
  bool rstrip;
  bool normalized;  // searched in the normalized text instead of the original
  bool special;     // left out of decoded text on request
};

// A set of strings and the search for them: a trie over bytes.
class TokenSearch {
 public:
  void add(std::string_view content, int32_t index);
  bool empty() const { return nodes_.size() == 1; }
  // The leftmost longest match in text[from..]: its index, or -1; *begin and *end are its place.
  int32_t find(std::string_view text, size_t from, size_t* begin, size_t* end) const;

 private:
  struct Node {
    int32_t index = -1;        // token that ends here
    int32_t first_child = -1;  // children are a list through `sibling`
    int32_t sibling = -1;
    char byte = 0;
  };
  int32_t child(int32_t node, char byte) const;
  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::vector<char> starts_ = std::vector<char>(256, 0);  // bytes that start a token
  int num_starts_ = 0;
  char only_start_ = 0;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // `list` is the file's "added_tokens". Of a content that is listed twice the last entry counts,
  // but it is special if any entry is.
  // Error(damaged) if a token's id is not the model's or two tokens share one.
  AddedTokens(const Component& file, const Bpe& model, const Normalizer& normalizer);

  // Calls part(text, id) for each part of `text` in order: id is -1 for text between tokens.
  // `normalized` selects the tokens that are searched for in normalized text.
  template <class PartFunction>
  void split(std::string_view text, bool normalized, PartFunction&& part) const {
    const TokenSearch& search = normalized ? in_normalized_ : in_original_;
    size_t done = 0;
    if (!search.empty()) {
      for (size_t at = 0, begin = 0, end = 0; at < text.size(); at = end) {
        const int32_t index = search.find(text, at, &begin, &end);
        if (index < 0) break;
        const size_t match_end = end;
        // It may lie in white space that the token before has swallowed: then the text goes on
        // behind it, as in the package.
        if (!place(text, done, tokens_[index], &begin, &end)) continue;
        if (begin > done) part(text.substr(done, begin - done), -1);
        // One that strips to its left from there has nothing left, and is no token.
        if (end > begin) part(text.substr(begin, end - begin), tokens_[index].id);
        done = end;
        end = match_end;
      }
    }
    if (done != text.size()) part(text.substr(done < text.size() ? done : 0), -1);
  }

  const AddedToken* find(int32_t id) const;
  const AddedToken* find(std::string_view content) const;
  int32_t largest_id() const { return largest_id_; }

 private:
  // True if a match counts; widens it over white space if the token strips it.
  static bool place(std::string_view text, size_t done, const AddedToken& token, size_t* begin,
                    size_t* end);

  std::vector<AddedToken> tokens_;
  Vocabulary by_content_;                       // indices into tokens_
  std::unordered_map<int32_t, int32_t> by_id_;  // likewise
  TokenSearch in_original_;
  TokenSearch in_normalized_;
  int32_t largest_id_ = -1;
};

}  // namespace osp::tokenizer
