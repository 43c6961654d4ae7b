// Text before it is compared or shown to a model: the normalisations of the reference's tasks.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace osp {

// White space of Unicode removed at both ends, as Python's strip().
std::string stripped(std::string_view text);
// Bytes of white space at the end.
size_t trailing_space_bytes(std::string_view text);
// Number of characters (code points) of valid UTF-8.
int64_t num_characters(std::string_view text);
// First letter upper, all others lower case, as Python's capitalize().
std::string capitalized(std::string_view text);
std::string lower_case(std::string_view text);
std::string replaced(std::string text, std::string_view from, std::string_view to);

// HellaSwag's WikiHow artifacts removed: " [title]" becomes ". ", other text in brackets goes, two
// spaces become one.
std::string without_brackets(std::string text);

// TriviaQA: lower case without ASCII punctuation.
std::string trivia_normalized(std::string_view text);
// A right answer for trivia_matches: aliases in order of bytes, of which another one is a beginning
// are dropped, normalised.
std::vector<std::string> trivia_references(std::vector<std::string> aliases);
// The number after "#### " without commas, or "[invalid]".
std::string gsm8k_number(std::string_view text);

// Quasi-exact match: any reference equals the answer, both stripped, after the task's normalisation
// (TriviaQA normalises the answer alone, references are). An empty answer never matches.
bool trivia_matches(std::string_view generated, std::span<const std::string> references);
bool gsm8k_matches(std::string_view generated, std::span<const std::string> references);

}  // namespace osp
