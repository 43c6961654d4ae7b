#include "osp/tokenizer/bpe.h"

#include <algorithm>

#include "osp/tokenizer/utf8.h"

namespace osp::tokenizer {
namespace {

// From this length on the queue is faster than the scan; measured, not critical.
constexpr size_t kScanLimit = 48;

// The two halves of a merge, written as "left right" or ["left", "right"].
std::pair<std::string, std::string> read_pair(const SortedJson& merge, const Component& model,
                                              size_t index) {
  if (merge.is_string()) {
    const std::string text = merge.get<std::string>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
             merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  fail(ErrorCode::damaged, "{}: merges[{}] is not two tokens", model.where, index);
}

}  // namespace

Bpe::Bpe(const Component& model) {
  // Options without support.
  if (model.has("dropout") && !(model.json["dropout"].is_number() && model.json["dropout"] == 0)) {
    fail(ErrorCode::unsupported, "{}: dropout is not supported; set it to null", model.where);
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.text(key, "").empty()) {
      fail(ErrorCode::unsupported, "{}: {} \"{}\" is not supported", model.where, key,
           printable(model.text(key)));
    }
  }

  // Vocabulary, merges and flags.
  read_vocabulary(model);
  read_merges(model);
  fuse_unknown_ = model.flag("fuse_unk", false);
  byte_fallback_ = model.flag("byte_fallback", false);
  ignore_merges_ = model.flag("ignore_merges", false);
  if (model.has("unk_token")) {
    unknown_id_ = id(model.text("unk_token"));
    if (unknown_id_ < 0) {
      fail(ErrorCode::damaged, "{}: unk_token \"{}\" is not in the vocabulary", model.where,
           printable(model.text("unk_token")));
    }
  }

  // The symbols of single bytes: of ASCII characters, and of bytes without a token.
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    symbol_of_byte_[byte] = byte < 0x80 ? id(std::string_view(&c, 1)) : -1;
    fallback_of_byte_[byte] = byte_fallback_ ? id(fmt::format("<0x{:02X}>", byte)) : -1;
  }
}

void Bpe::read_vocabulary(const Component& model) {
  const Component vocabulary = model.child("vocab");
  if (!vocabulary.json.is_object()) {
    fail(ErrorCode::damaged, "{}: {}, expected an object from tokens to ids", vocabulary.where,
         vocabulary.json.type_name());
  }
  ids_.reserve(vocabulary.json.size());
  for (const auto& [token, value] : vocabulary.json.items()) {
    const int32_t token_id = as_token_id(value);
    if (token_id < 0) {
      fail(ErrorCode::damaged, "{}: id of \"{}\" is {}, expected an integer from 0 to {}",
           vocabulary.where, printable(token), shown(value), kLargestId);
    }
    const auto entry = ids_.emplace(token, token_id).first;
    if (const auto [other, fresh] = tokens_.emplace(token_id, &entry->first); !fresh) {
      fail(ErrorCode::damaged, "{}: \"{}\" and \"{}\" have the same id {}", vocabulary.where,
           printable(*other->second), printable(token), token_id);
    }
    largest_id_ = std::max(largest_id_, token_id);
  }
}

void Bpe::read_merges(const Component& model) {
  const Component merges = model.child("merges");
  if (!merges.json.is_array()) {
    fail(ErrorCode::damaged, "{}: {}, expected an array", merges.where, merges.json.type_name());
  }
  merges_.reserve(merges.json.size());
  for (size_t i = 0; i < merges.json.size(); ++i) {
    const auto [left, right] = read_pair(merges.json[i], model, i);
    const std::string both = left + right;
    for (const std::string& token : {left, right, both}) {
      if (id(token) < 0) {
        fail(ErrorCode::damaged, "{}: merges[{}] needs \"{}\", which is not in the vocabulary",
             model.where, i, printable(token));
      }
    }
    merges_.insert(id(left), id(right), {static_cast<int32_t>(i), id(both)});
    merged_ids_.push_back(id(both));
  }
}

bool Bpe::use_bytes() {
  if (byte_fallback_) return false;
  byte_mode_ = true;
  for (int byte = 0; byte < 256; ++byte) {
    std::string character;
    append_utf8(character, byte_character(static_cast<uint8_t>(byte)));
    symbol_of_byte_[byte] = id(character);
  }
  if (ignore_merges_) {
    for (const auto& [token, token_id] : ids_) {
      std::string bytes;
      if (append_from_byte_alphabet(token, bytes)) byte_words_.emplace(bytes, token_id);
    }
  }
  return true;
}

int32_t Bpe::id(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? -1 : found->second;
}

const std::string* Bpe::token(int32_t token_id) const {
  const auto found = tokens_.find(token_id);
  return found == tokens_.end() ? nullptr : found->second;
}

int32_t Bpe::character_id(std::string_view character) const {
  if (byte_mode_ || character.size() == 1) {
    return symbol_of_byte_[static_cast<uint8_t>(character[0])];
  }
  return id(character);
}

void Bpe::first_symbols(std::string_view word, std::vector<int32_t>& ids) const {
  // An unknown token waits until the next known character, so that neighbours can be fused with it;
  // characters that fall back to bytes do not end the wait.
  bool unknown_waits = false;
  const char* p = word.data();
  const char* const end = p + word.size();
  while (p < end) {
    const char* const start = p;
    if (byte_mode_) {
      ++p;
    } else {
      next_character(p);
    }
    const std::string_view character(start, static_cast<size_t>(p - start));
    const int32_t symbol = character_id(character);
    if (symbol >= 0) {
      if (unknown_waits) ids.push_back(unknown_id_);
      unknown_waits = false;
      ids.push_back(symbol);
      continue;
    }
    const auto fallback = [&](char c) { return fallback_of_byte_[static_cast<uint8_t>(c)]; };
    if (byte_fallback_ && std::all_of(start, p, [&](char c) { return fallback(c) >= 0; })) {
      for (const char c : character) ids.push_back(fallback(c));
      continue;
    }
    if (unknown_id_ < 0) continue;  // without an unknown token the character is dropped
    if (unknown_waits && !fuse_unknown_) ids.push_back(unknown_id_);
    unknown_waits = true;
  }
  if (unknown_waits) ids.push_back(unknown_id_);
}

bool Bpe::whole_word(std::string_view word, std::vector<int32_t>& ids) const {
  const Vocabulary& words = byte_mode_ ? byte_words_ : ids_;
  const auto found = words.find(word);
  if (found == words.end()) return false;
  ids.push_back(found->second);
  return true;
}

void Bpe::encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (ignore_merges_ && whole_word(word, ids)) return;
  const size_t from = ids.size();
  first_symbols(word, ids);
  if (ids.size() - from <= kScanLimit) {
    merge_by_scan(merges_, ids, from);
  } else {
    merge_by_queue(merges_, ids, from);
  }
}

void Bpe::encode_reference(std::string_view word, std::vector<int32_t>& ids) const {
  if (ignore_merges_ && whole_word(word, ids)) return;
  const size_t from = ids.size();
  first_symbols(word, ids);
  merge_by_scan(merges_, ids, from);
}

bool Bpe::may_cut_before(std::string_view character) const {
  // Without an unknown token characters vanish, and their neighbours may merge.
  if (ignore_merges_ || unknown_id_ < 0 || id(character) < 0) return false;
  return std::none_of(merged_ids_.begin(), merged_ids_.end(), [&](int32_t merged) {
    std::string_view rest = *token(merged);
    while (rest.starts_with(character)) rest.remove_prefix(character.size());
    return rest.find(character) != std::string_view::npos;
  });
}

}  // namespace osp::tokenizer
