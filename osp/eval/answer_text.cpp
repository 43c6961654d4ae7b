#include "osp/eval/answer_text.h"

#include <utf8proc.h>

#include <algorithm>

#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

// str.isspace() of Python is White_Space and the four separators of ASCII.
bool is_python_space(char32_t code) {
  return tokenizer::is_space(code) || (code >= 0x1C && code <= 0x1F);
}

template <class Map>
std::string mapped(std::string_view text, const Map& map) {
  const std::string valid = tokenizer::replace_invalid_utf8(text);
  std::string result;
  size_t index = 0;
  for (const char* p = valid.data(); p < valid.data() + valid.size(); ++index) {
    tokenizer::append_utf8(result, map(tokenizer::next_character(p), index));
  }
  return result;
}

char32_t lower(char32_t code) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code)));
}

bool is_ascii_punctuation(char c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

}  // namespace

size_t trailing_space_bytes(std::string_view text) {
  std::string_view rest = text;
  while (!rest.empty() && is_python_space(tokenizer::last_character(rest))) {
    do {
      rest.remove_suffix(1);
    } while (!rest.empty() &&
             (static_cast<unsigned char>(rest.data()[rest.size()]) & 0xC0) == 0x80);
  }
  return text.size() - rest.size();
}

std::string stripped(std::string_view text) {
  const std::string valid = tokenizer::replace_invalid_utf8(text);
  const char* begin = valid.data();
  const char* const end = begin + valid.size() - trailing_space_bytes(valid);
  for (const char* next = begin; begin < end; begin = next) {
    if (!is_python_space(tokenizer::next_character(next))) break;
  }
  return {begin, std::max(begin, end)};
}

int64_t num_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::string capitalized(std::string_view text) {
  return mapped(text, [](char32_t code, size_t index) {
    if (index > 0) return lower(code);
    return static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(code)));
  });
}

std::string lower_case(std::string_view text) {
  return mapped(text, [](char32_t code, size_t) { return lower(code); });
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

std::string without_brackets(std::string text) {
  text = replaced(std::move(text), " [title]", ". ");
  // The regular expression \[.*?\], where "." is no line break.
  for (size_t open = text.find('['); open != std::string::npos; open = text.find('[', open)) {
    const size_t close = text.find(']', open);
    if (close == std::string::npos) break;
    if (text.find('\n', open) < close) {
      ++open;
    } else {
      text.erase(open, close + 1 - open);
    }
  }
  return replaced(std::move(text), "  ", " ");
}

std::string trivia_normalized(std::string_view text) {
  std::string result = lower_case(text);
  std::erase_if(result, is_ascii_punctuation);
  return result;
}

std::vector<std::string> trivia_references(std::vector<std::string> aliases) {
  std::sort(aliases.begin(), aliases.end());
  std::vector<std::string> kept;
  for (const std::string& alias : aliases) {
    if (kept.empty() || !alias.starts_with(kept.back())) kept.push_back(alias);
  }
  for (std::string& alias : kept) alias = trivia_normalized(alias);
  return kept;
}

std::string gsm8k_number(std::string_view text) {
  const auto part = [](char c) { return (c >= '0' && c <= '9') || c == '.' || c == ','; };
  constexpr std::string_view kMark = "#### ";
  for (size_t at = text.find(kMark); at != std::string_view::npos; at = text.find(kMark, at + 1)) {
    const std::string_view rest = text.substr(at + kMark.size());
    const size_t sign = rest.starts_with('-') ? 1 : 0;
    size_t end = sign;
    while (end < rest.size() && part(rest[end])) ++end;
    if (end == sign) continue;
    std::string number(rest.substr(0, end));
    std::erase(number, ',');
    return number;
  }
  return "[invalid]";
}

bool trivia_matches(std::string_view generated, std::span<const std::string> references) {
  if (generated.empty()) return false;
  const std::string answer = trivia_normalized(stripped(generated));
  return std::any_of(references.begin(), references.end(),
                     [&](const std::string& reference) { return stripped(reference) == answer; });
}

bool gsm8k_matches_lm_eval(std::string_view generated, std::span<const std::string> references) {
  if (generated.empty()) return false;
  const auto number = [](std::string_view text) {
    std::string found = gsm8k_number(text);
    if (found.ends_with('.')) found.pop_back();
    return found;
  };
  const std::string answer = number(generated);
  return std::any_of(references.begin(), references.end(),
                     [&](const std::string& reference) { return number(reference) == answer; });
}

bool gsm8k_matches(std::string_view generated, std::span<const std::string> references) {
  if (generated.empty()) return false;
  const std::string answer = gsm8k_number(generated);
  return std::any_of(references.begin(), references.end(), [&](const std::string& reference) {
    return gsm8k_number(reference) == answer;
  });
}

}  // namespace osp
