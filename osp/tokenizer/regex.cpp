#include "osp/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "osp/tokenizer/utf8.h"

namespace osp::tokenizer {
namespace {

constexpr size_t kMaxPatternBytes = 1 << 16;
constexpr uint32_t kMatchLimit = 100'000'000;  // a few seconds
constexpr uint32_t kHeapLimitKiB = 256 << 10;
constexpr size_t kJitStackBytes = 128 << 20;  // address space; pages are taken when needed

pcre2_code* compile(const std::string& pattern, int* error) {
  PCRE2_SIZE offset = 0;
  // Ruby's syntax, Oniguruma's default: ^ and $ are about lines.
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  return pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options, error,
                       &offset, nullptr);
}

bool compiles(const std::string& pattern) {
  int error = 0;
  pcre2_code* code = compile(pattern, &error);
  const bool good = code != nullptr;
  pcre2_code_free(code);
  return good;
}

// Memory for matching, one per thread: matching is const and shares nothing.
struct MatchMemory {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr);
  MatchMemory() {
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, kHeapLimitKiB);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~MatchMemory() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
  MatchMemory(const MatchMemory&) = delete;
  MatchMemory& operator=(const MatchMemory&) = delete;
};

// Rewrites one pattern from left to right, keeping track of whether a [class] is open.
class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        class_member(c);
      } else {
        plain(c);
      }
    }
    return out_;
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    fail(ErrorCode::unsupported, "{}: \"{}\" in the regular expression \"{}\" is not supported",
         where_, printable(what), printable(in_));
  }
  bool ahead(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  void copy(size_t count) {
    out_ += in_.substr(at_, count);
    at_ += count;
  }

  void plain(char c) {
    if (ahead("{,")) refuse("{,");
    if (ahead("(?")) {
      const std::string_view flags = in_.substr(at_ + 2, in_.find_first_of(":)", at_) - at_ - 2);
      const bool only_flags = flags.find_first_not_of("-imsxadu") == std::string_view::npos;
      if (only_flags && flags.find_first_not_of("-i") != std::string_view::npos) refuse("(?flags)");
    }
    if (c == '[') {
      in_class_ = true;
      copy(1);
      if (at_ < in_.size() && in_[at_] == '^') copy(1);
      if (at_ < in_.size() && in_[at_] == ']') refuse("[]");
      return;
    }
    copy(1);
  }

  void class_member(char c) {
    if (c == '[') refuse("[ in a class");
    if (ahead("&&")) refuse("&&");
    if (c == ']') in_class_ = false;
    copy(1);
  }

  void escape() {
    if (at_ + 1 >= in_.size()) refuse("\\ at the end");
    // Oniguruma counts the superscripts and fractions of Latin-1 as word characters, but
    // not in brackets.
    constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
    constexpr std::string_view kLatinNumbers = R"(\xB2\xB3\xB9\xBC-\xBE)";
    const char c = in_[at_ + 1];
    if (c == 'p' || c == 'P') return property(c);
    const auto put = [&](std::string_view text) {
      out_ += text;
      at_ += 2;
    };
    const auto put_class = [&](std::string_view members, bool negated) {
      if (in_class_ && negated) refuse(in_.substr(at_, 2));
      put(in_class_ ? std::string(members) : fmt::format("[{}{}]", negated ? "^" : "", members));
    };
    switch (c) {
      case 's':
        return put(R"(\p{White_Space})");
      case 'S':
        return put(R"(\P{White_Space})");
      case 'w':
      case 'W':
        return put_class(in_class_ ? std::string(kWord) : fmt::format("{}{}", kWord, kLatinNumbers),
                         c == 'W');
      case 'h':
      case 'H':
        return put_class("0-9A-Fa-f", c == 'H');
      case 'd':
      case 'D':
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'v':
      case 'x':
      case 'A':
      case 'z':
        if (c == 'v') return put(R"(\x0B)");
        return copy(2);
      default:
        break;
    }
    const auto byte = static_cast<unsigned char>(c);
    const bool letter_or_digit = (byte | 0x20) >= 'a' && (byte | 0x20) <= 'z';
    if (letter_or_digit || (byte >= '0' && byte <= '9')) refuse(in_.substr(at_, 2));
    copy(2);
  }

  // PCRE2 reads \p{Han} as the script extensions, Oniguruma as the script.
  void property(char kind) {
    const size_t close = in_.find('}', at_);
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{' || close == std::string_view::npos) {
      refuse(in_.substr(at_, 3));
    }
    std::string name(in_.substr(at_ + 3, close - at_ - 3));
    const std::string script = "sc:" + name;
    if (name.find_first_of(":=^") == std::string::npos && name.size() > 2 &&
        compiles(R"(\p{)" + script + "}")) {
      name = script;
    }
    out_ += fmt::format("\\{}{{{}}}", kind, name);
    at_ = close + 1;
  }

  std::string_view in_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

struct Regex::Code {
  pcre2_code* code;
  explicit Code(pcre2_code* c) : code(c) {}
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
};

std::string translate_pattern(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

Regex::Regex(const std::string& pattern, const std::string& where) : where_(where) {
  if (pattern.size() > kMaxPatternBytes) {
    fail(ErrorCode::unsupported, "{}: regular expression of {} bytes, at most {} are supported",
         where, pattern.size(), kMaxPatternBytes);
  }
  int error = 0;
  pcre2_code* code = compile(translate_pattern(pattern, where), &error);
  if (code == nullptr) {
    char message[256] = "";
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof(message));
    fail(ErrorCode::unsupported, "{}: regular expression \"{}\" cannot be used: {}", where,
         printable(pattern), message);
  }
  code_ = std::make_shared<Code>(code);
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without JIT, pcre2_match interprets
}

void Regex::for_each_match(std::string_view text, const Match& match) const {
  thread_local MatchMemory memory;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t at = 0;
  size_t last_end = std::string_view::npos;
  while (at <= text.size()) {
    int result = pcre2_match(code_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK, memory.data,
                             memory.context);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
      result = pcre2_match(code_->code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                           memory.data, memory.context);
    }
    if (result == PCRE2_ERROR_NOMATCH) return;
    if (result < 0) {
      char message[256] = "";
      pcre2_get_error_message(result, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof(message));
      fail(ErrorCode::unsupported, "{}: the regular expression is too costly on this text: {}",
           where_, message);
    }
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(memory.data);
    const size_t begin = span[0];
    const size_t end = span[1];
    if (begin == end && end == last_end) {  // step over one character
      if (at >= text.size()) return;
      const char* p = text.data() + at;
      next_character(p);
      at = static_cast<size_t>(p - text.data());
      continue;
    }
    match(begin, end);
    at = last_end = end;
  }
}

Pattern::Pattern(const Component& component) : where_(component.where) {
  const Component pattern = component.child("pattern");
  if (pattern.json.is_object() && pattern.has("Regex")) {
    regex_ = std::make_shared<Regex>(pattern.text("Regex"), pattern.where);
  } else if (pattern.json.is_object() && pattern.has("String")) {
    literal_ = pattern.text("String");
    if (literal_.empty()) {
      fail(ErrorCode::unsupported, "{}: an empty string as a pattern is not supported",
           pattern.where);
    }
  } else {
    fail(ErrorCode::damaged, R"({}: expected {{"String": …}} or {{"Regex": …}})", pattern.where);
  }
}

void Pattern::for_each_match(std::string_view text, const Regex::Match& match) const {
  if (regex_) return regex_->for_each_match(text, match);
  for (size_t at = text.find(literal_); at != std::string_view::npos;
       at = text.find(literal_, at + literal_.size())) {
    match(at, at + literal_.size());
  }
}

std::string Pattern::replace(std::string_view text, std::string_view content, const Growth& growth,
                             size_t* start) const {
  std::string repaired;
  if (regex_ && valid_utf8_prefix(text) != text.size()) {
    repaired = replace_invalid_utf8(text);
    text = repaired;
  }
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  size_t done = 0, from_start = 0;
  const auto count_kept = [&](size_t end) {
    from_start += std::max(done, std::min(end, *start)) - done;
  };
  for_each_match(text, [&](size_t begin, size_t end) {
    count_kept(begin);
    if (end == 0 || end - 1 < *start) from_start += content.size();
    out.append(text.substr(done, begin - done)).append(content);
    done = end;
    growth.check(out.size(), where_);
  });
  count_kept(text.size());
  *start = from_start;
  return out.append(text.substr(done));
}

}  // namespace osp::tokenizer
