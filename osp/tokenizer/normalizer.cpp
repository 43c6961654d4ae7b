#include "osp/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "osp/tokenizer/regex.h"
#include "osp/tokenizer/utf8.h"

namespace osp::tokenizer {
namespace {

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
}

int combining_class(utf8proc_int32_t code) {
  return static_cast<int>(utf8proc_get_property(code)->combining_class);
}

// Appends the full decomposition of one character.
void decompose(char32_t code, utf8proc_option_t options, std::vector<utf8proc_int32_t>& out) {
  utf8proc_int32_t parts[32];  // the longest decomposition has 18 characters (U+FDFA)
  int boundary = 0;
  const auto count =
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), parts, 32, options, &boundary);
  OSP_CHECK(count >= 0 && count <= 32, "decomposition of U+{:04X}", static_cast<uint32_t>(code));
  out.insert(out.end(), parts, parts + count);
}

// Each run of combining marks in the order of their classes. (utf8proc's own ordering takes
// quadratic time on long runs.)
void order_marks(std::vector<utf8proc_int32_t>& codes) {
  for (size_t i = 0; i < codes.size();) {
    if (combining_class(codes[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < codes.size() && combining_class(codes[end]) != 0) ++end;
    std::stable_sort(codes.begin() + static_cast<ptrdiff_t>(i),
                     codes.begin() + static_cast<ptrdiff_t>(end),
                     [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    i = end;
  }
}

// Unicode normalization: decompose, order, and compose if asked to.
std::string normalize(const std::string& text, bool compatible, bool compose) {
  if (is_ascii(text)) return text;
  auto options = static_cast<int>(UTF8PROC_STABLE);
  if (compatible) options |= UTF8PROC_COMPAT;
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size());
  const char* p = text.data();
  while (p < text.data() + text.size()) {
    decompose(next_character(p), static_cast<utf8proc_option_t>(options | UTF8PROC_DECOMPOSE),
              codes);
  }
  order_marks(codes);
  if (compose) {
    const auto composed =
        utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()),
                                 static_cast<utf8proc_option_t>(options | UTF8PROC_COMPOSE));
    OSP_CHECK(composed >= 0, "composition");
    codes.resize(static_cast<size_t>(composed));
  }
  std::string out;
  out.reserve(text.size());
  for (const auto code : codes) append_utf8(out, static_cast<char32_t>(code));
  return out;
}

std::string lowercase(const std::string& text) {
  std::string out;
  out.reserve(text.size());
  const char* p = text.data();
  while (p < text.data() + text.size()) {
    const char32_t code = next_character(p);
    if (code == 0x130) {  // the one character whose lower case is two characters
      out += "i\xCC\x87";
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<int32_t>(code))));
    }
  }
  return out;
}

// Bytes that `f` makes of the first `count` bytes.
template <class Function>
size_t bytes_made(const std::string& text, size_t count, const Function& f) {
  return count == 0 ? 0 : f(text.substr(0, count)).size();
}

std::string strip(std::string_view text, bool left, bool right, size_t* start) {
  const size_t before = text.size();
  while (left && !text.empty()) {
    const char* p = text.data();
    if (!is_space(next_character(p))) break;
    text.remove_prefix(static_cast<size_t>(p - text.data()));
  }
  *start -= std::min(*start, before - text.size());
  while (right && !text.empty()) {
    const char32_t last = last_character(text);
    if (!is_space(last)) break;
    text.remove_suffix(last < 0x80 ? 1 : last < 0x800 ? 2 : 3);
  }
  return std::string(text);
}

}  // namespace

Normalizer::Normalizer(const Component& component) { add(component); }

void Normalizer::add(const Component& component) {
  const std::string type = component.type();
  const auto step = [&](auto run) { steps_.push_back({component.where, std::move(run)}); };
  if (type == "Sequence") {
    for (const Component& part : component.list("normalizers")) add(part);
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    const bool compatible = type[2] == 'K';
    const bool compose = type.back() == 'C';
    step([=](std::string text, const Growth&, size_t* start) {
      const auto run = [&](const std::string& part) {
        return normalize(part, compatible, compose);
      };
      *start = bytes_made(text, *start, run);
      std::string made = run(text);
      // A character that the first one was composed into is from the first one whole.
      while (*start > 0 && *start < made.size() && (made[*start] & 0xC0) == 0x80) ++*start;
      return made;
    });
  } else if (type == "Prepend") {
    step([prefix = component.text("prepend")](std::string text, const Growth&, size_t* start) {
      if (*start > 0) *start += prefix.size();
      return text.empty() ? text : prefix + text;
    });
  } else if (type == "Replace") {
    step([pattern = Pattern(component), content = component.text("content")](
             std::string text, const Growth& growth, size_t* start) {
      return pattern.replace(text, content, growth, start);
    });
  } else if (type == "Lowercase") {
    step([](std::string text, const Growth&, size_t* start) {
      *start = bytes_made(text, *start, lowercase);
      return lowercase(text);
    });
  } else if (type == "Strip") {
    const bool left = component.flag("strip_left", true);
    const bool right = component.flag("strip_right", true);
    step([=](std::string text, const Growth&, size_t* start) {
      return strip(text, left, right, start);
    });
  } else {
    component.unsupported("normalizer",
                          "NFC, NFD, NFKC, NFKD, Prepend, Replace, Lowercase, Strip, Sequence");
  }
}

std::string Normalizer::apply(std::string text, Growth& growth, size_t* start) const {
  for (const Step& step : steps_) {
    text = step.run(std::move(text), growth, start);
    growth.check(text.size(), step.where);
  }
  if (!steps_.empty()) growth.add(text.size(), steps_.back().where);
  return text;
}

}  // namespace osp::tokenizer
