// Normalisations of text in the reference's tasks, before it is compared or shown to a model.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace osp {

// The text without Unicode white space at both ends, as Python's strip().
std::string stripped(std::string_view text);
// Bytes of Unicode white space at the end.
size_t trailing_space_bytes(std::string_view text);
// Number of characters (code points) of valid UTF-8.
int64_t num_characters(std::string_view text);
// The first letter in upper, all others in lower case, as Python's capitalize().
std::string capitalized(std::string_view text);
std::string lower_case(std::string_view text);
std::string replaced(std::string text, std::string_view from, std::string_view to);

// HellaSwag's text without WikiHow artifacts: " [title]" becomes ". ", other text in brackets is
// removed, two spaces become one.
std::string without_brackets(std::string text);

// TriviaQA's normalisation: lower case without ASCII punctuation.
std::string trivia_normalized(std::string_view text);
// The right answers for trivia_matches: normalised aliases, sorted by bytes, without those that
// begin with another alias.
std::vector<std::string> trivia_references(std::vector<std::string> aliases);
// The number after "#### " without commas, or "[invalid]".
std::string gsm8k_number(std::string_view text);

// Quasi-exact match: any reference equals the answer, both stripped, after the task's normalisation
// (TriviaQA normalises the answer only; its references are normalised already). An empty answer
// never matches.
bool trivia_matches(std::string_view generated, std::span<const std::string> references);
bool gsm8k_matches(std::string_view generated, std::span<const std::string> references);
// As lm-eval compares: a full stop at the end ("#### 18.") is no part of the number.
bool gsm8k_matches_lm_eval(std::string_view generated, std::span<const std::string> references);

}  // namespace osp
