#include "osp/tokenizer/added.h"

#include <algorithm>
#include <cstring>

#include "osp/tokenizer/utf8.h"

namespace osp::tokenizer {
namespace {

// Keeps the search linear in the text: at most this many bytes are looked at per place.
constexpr size_t kMaxContentBytes = 1024;
constexpr size_t kMaxNormalizedBytes = 4 * kMaxContentBytes;

AddedToken read_token(const Component& component) {
  if (!component.json.is_object()) {
    fail(ErrorCode::damaged, "{}: {}, expected an object", component.where,
         component.json.type_name());
  }
  AddedToken token;
  token.id = static_cast<int32_t>(component.integer("id", 0, kLargestId));
  token.content = component.text("content");
  token.single_word = component.flag("single_word", false);
  token.lstrip = component.flag("lstrip", false);
  token.rstrip = component.flag("rstrip", false);
  token.special = component.flag("special", false);
  token.normalized = component.flag("normalized", !token.special);
  token.decoded_normalized = token.normalized;
  if (token.content.size() > kMaxContentBytes) {
    fail(ErrorCode::unsupported, "{}: content of {} bytes, at most {} are supported",
         component.where, token.content.size(), kMaxContentBytes);
  }
  return token;
}

bool starts_with_word(std::string_view text) {
  const char* p = text.data();
  return !text.empty() && is_word(next_character(p));
}

size_t encoded_size(char32_t code) {
  return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}

}  // namespace

int32_t TokenSearch::child(int32_t node, char byte) const {
  int32_t next = nodes_[node].first_child;
  while (next >= 0 && nodes_[next].byte != byte) next = nodes_[next].sibling;
  return next;
}

void TokenSearch::add(std::string_view content, int32_t index) {
  if (content.empty()) return;
  char& start = starts_[static_cast<uint8_t>(content[0])];
  if (!start) ++num_starts_;
  start = 1;
  only_start_ = content[0];
  int32_t node = 0;
  for (const char byte : content) {
    int32_t next = child(node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(nodes_.size());
      nodes_.push_back({-1, -1, nodes_[node].first_child, byte});
      nodes_[node].first_child = next;
    }
    node = next;
  }
  if (nodes_[node].index < 0) nodes_[node].index = index;  // the first of equal contents
}

int32_t TokenSearch::find(std::string_view text, size_t from, size_t* begin, size_t* end) const {
  for (size_t at = from; at < text.size(); ++at) {
    if (num_starts_ == 1) {
      const void* found = std::memchr(text.data() + at, only_start_, text.size() - at);
      if (found == nullptr) return -1;
      at = static_cast<size_t>(static_cast<const char*>(found) - text.data());
    } else if (!starts_[static_cast<uint8_t>(text[at])]) {
      continue;
    }
    int32_t longest = -1;
    int32_t node = 0;
    for (size_t i = at; i < text.size(); ++i) {
      node = child(node, text[i]);
      if (node < 0) break;
      if (nodes_[node].index >= 0) {
        longest = nodes_[node].index;
        *begin = at;
        *end = i + 1;
      }
    }
    if (longest >= 0) return longest;
  }
  return -1;
}

AddedTokens::AddedTokens(const Component& file, const Bpe& model, const Normalizer& normalizer) {
  if (!file.has("added_tokens")) return;
  // The entries of each content: the last one counts.
  std::vector<std::string> places;
  for (const Component& entry : file.list("added_tokens")) {
    AddedToken token = read_token(entry);
    if (token.content.empty()) continue;
    const auto before = by_content_.find(token.content);
    if (before != by_content_.end()) {
      const auto index = static_cast<size_t>(before->second);
      token.id = tokens_[index].id;
      token.special = token.special || tokens_[index].special;
      token.decoded_normalized = token.decoded_normalized || tokens_[index].decoded_normalized;
      tokens_[index] = std::move(token);
      continue;
    }
    // Content and id must agree with the vocabulary and with the tokens before.
    const int32_t in_model = model.id(token.content);
    const std::string* other = model.token(token.id);
    if ((in_model >= 0 && in_model != token.id) || (other && *other != token.content) ||
        by_id_.contains(token.id)) {
      fail(ErrorCode::damaged, "{}: \"{}\" has id {}, which is not its own in the vocabulary",
           entry.where, printable(token.content), token.id);
    }
    const auto index = static_cast<int32_t>(tokens_.size());
    by_content_.emplace(token.content, index);
    by_id_.emplace(token.id, index);
    largest_id_ = std::max(largest_id_, token.id);
    places.push_back(entry.where);
    tokens_.push_back(std::move(token));
  }
  // Normalized tokens are looked for in normalized text, the others in the original.
  for (size_t i = 0; i < tokens_.size(); ++i) {
    AddedToken& token = tokens_[i];
    Growth growth(token.content.size());
    const bool rewritten = token.normalized || token.decoded_normalized;
    token.decoded = rewritten ? normalizer.apply(token.content, growth) : token.content;
    token.found_as = token.normalized ? token.decoded : token.content;
    if (token.found_as.empty()) {
      fail(ErrorCode::unsupported,
           "{}: \"{}\" is nothing when normalized, and would be found everywhere", places[i],
           printable(token.content));
    }
    if (token.decoded.size() > kMaxNormalizedBytes) {
      fail(ErrorCode::unsupported,
           "{}: content of {} bytes when normalized, at most {} are supported", places[i],
           token.decoded.size(), kMaxNormalizedBytes);
    }
    (token.normalized ? in_normalized_ : in_original_).add(token.found_as, static_cast<int32_t>(i));
  }
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(content);
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

bool AddedTokens::place(std::string_view text, size_t done, const AddedToken& token, size_t* begin,
                        size_t* end) {
  if (token.single_word) {
    if (*begin > 0 && is_word(last_character(text.substr(0, *begin)))) return false;
    if (starts_with_word(text.substr(*end))) return false;
  }
  if (token.lstrip && *begin < done) *begin = done;
  while (token.lstrip && *begin > done) {
    const char32_t before = last_character(text.substr(0, *begin));
    if (!is_space(before)) break;
    *begin -= encoded_size(before);
  }
  while (token.rstrip && *end < text.size()) {
    const char* p = text.data() + *end;
    if (!is_space(next_character(p))) break;
    *end = static_cast<size_t>(p - text.data());
  }
  return true;
}

}  // namespace osp::tokenizer
