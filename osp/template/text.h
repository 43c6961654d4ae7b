// Python's functions on strings, by characters (code points). Texts are valid UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace osp::jinja {

// Bytes of the character that begins with `lead`.
inline size_t character_size(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

size_t num_characters(std::string_view text);
// The byte at which character `index` begins; the text's size behind the last one.
size_t byte_of_character_index(std::string_view text, size_t index);

bool is_python_space(char32_t code);  // str.isspace
// Bytes of white space at the start and at the end.
size_t leading_space(std::string_view text);
size_t trailing_space(std::string_view text);

// str.strip, lstrip, rstrip: of white space, or of the characters given.
struct Sides {
  bool left = true;
  bool right = true;
};
std::string_view strip(std::string_view text, const std::optional<std::string>& characters,
                       Sides sides = {});

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);    // str.capitalize
std::string python_title(std::string_view text);  // str.title
std::string jinja_title(std::string_view text);   // the filter: words end at white space, - ( { [ <

// str.split and rsplit; without a separator, at runs of white space. max_splits < 0: all.
std::vector<std::string> split(std::string_view text, const std::optional<std::string>& separator,
                               int64_t max_splits);
std::vector<std::string> split_right(std::string_view text,
                                     const std::optional<std::string>& separator,
                                     int64_t max_splits);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);
// Occurrences that do not overlap; of the empty text, one more than characters.
size_t count(std::string_view text, std::string_view part);
// At most `most` of them replaced, all if negative. The caller limits the size of the result.
std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t most);
bool is_printable(char32_t code);  // str.isprintable
std::string escape_html(std::string_view text);

}  // namespace osp::jinja
