#include "osp/tokenizer/pretokenizer.h"

#include <algorithm>
#include <utility>

#include "osp/tokenizer/regex.h"
#include "osp/tokenizer/utf8.h"

namespace osp::tokenizer {
namespace {

// A stretch of text between or at delimiters; stretches cover the text.
struct Span {
  size_t begin;
  size_t end;
  bool delimiter;
};

// The treatment of the delimiters.
enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

Behavior read_behavior(const Component& component) {
  const std::string name = component.text("behavior");
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  fail(ErrorCode::unsupported,
       "{}: behavior \"{}\" is not supported (known: Removed, Isolated, MergedWithPrevious, "
       "MergedWithNext, Contiguous)",
       component.where, printable(name));
}

// Joins a delimiter to the span before it, unless that is a delimiter too or there is none.
void merge_with_previous(std::vector<Span>& spans) {
  std::vector<Span> merged;
  bool after_delimiter = false;
  for (const Span& span : spans) {
    if (span.delimiter && !after_delimiter && !merged.empty()) {
      merged.back().end = span.end;
    } else {
      merged.push_back(span);
    }
    after_delimiter = span.delimiter;
  }
  spans = std::move(merged);
}

void merge_with_next(std::vector<Span>& spans) {
  std::vector<Span> merged;
  bool before_delimiter = false;
  for (size_t i = spans.size(); i-- > 0;) {
    const Span& span = spans[i];
    if (span.delimiter && !before_delimiter && !merged.empty()) {
      merged.back().begin = span.begin;
    } else {
      merged.push_back(span);
    }
    before_delimiter = span.delimiter;
  }
  std::reverse(merged.begin(), merged.end());
  spans = std::move(merged);
}

void merge_alike(std::vector<Span>& spans) {
  std::vector<Span> merged;
  for (const Span& span : spans) {
    if (!merged.empty() && merged.back().delimiter == span.delimiter) {
      merged.back().end = span.end;
    } else {
      merged.push_back(span);
    }
  }
  spans = std::move(merged);
}

// Hands on the pieces that `spans` of one piece become.
void cut(const Piece& piece, std::vector<Span>& spans, Behavior behavior, PieceSink& sink) {
  if (behavior == Behavior::merged_with_previous) merge_with_previous(spans);
  if (behavior == Behavior::merged_with_next) merge_with_next(spans);
  if (behavior == Behavior::contiguous) merge_alike(spans);
  for (const Span& span : spans) {
    if (behavior == Behavior::removed && span.delimiter) continue;
    sink.add(piece.text.substr(span.begin, span.end - span.begin), piece.start_after(span.begin));
  }
}

// The spans of `text` for a pattern; with `invert`, what is not matched is the delimiter.
std::vector<Span> spans_of(const Pattern& pattern, std::string_view text, bool invert) {
  std::vector<Span> spans;
  size_t done = 0;
  pattern.for_each_match(text, [&](size_t begin, size_t end) {
    if (begin > done) spans.push_back({done, begin, invert});
    spans.push_back({begin, end, !invert});
    done = end;
  });
  if (done < text.size()) spans.push_back({done, text.size(), invert});
  return spans;
}

void cut_digits(const Piece& piece, bool individual, PieceSink& sink) {
  const char* const begin = piece.text.data();
  const char* const end = begin + piece.text.size();
  const auto add = [&](const char* from, const char* to) {
    sink.add({from, static_cast<size_t>(to - from)},
             piece.start_after(static_cast<size_t>(from - begin)));
  };
  const char* start = begin;  // start of the open run
  bool digits = false;        // true if that run is made of digits
  for (const char* p = begin; p < end;) {
    const char* const here = p;
    const bool digit = word_class(next_character(p)) == WordClass::number;
    if (here > start && (digit != digits || (digit && individual))) {
      add(start, here);
      start = here;
    }
    digits = digit;
  }
  add(start, end);
}

void cut_byte_level(const Piece& piece, bool prefix_space, bool use_regex, PieceSink& sink) {
  std::string_view text = piece.text;
  size_t start = piece.start;
  if (prefix_space && text.front() != ' ') {
    text = sink.keep(" " + std::string(text));
    if (start > 0) ++start;
  }
  const auto add = [&](std::string_view word) {
    const size_t left =
        Piece{text, start}.start_after(static_cast<size_t>(word.data() - text.data()));
    sink.add(sink.keep(to_byte_alphabet(word)), to_byte_alphabet(word.substr(0, left)).size());
  };
  if (use_regex) {
    for_each_gpt2_word(text, add);
  } else {
    add(text);
  }
}

}  // namespace

PreTokenizer::PreTokenizer(const Component& component) { add(component); }

void PreTokenizer::use_bytes() {
  OSP_CHECK(can_use_bytes_ && !byte_words_, "the last step is not the only ByteLevel");
  steps_.pop_back();
  byte_words_ = true;
}

void PreTokenizer::add_step(const Component& component,
                            std::function<void(const Piece&, PieceSink&)> run) {
  steps_.push_back({component.where, std::move(run)});
}

void PreTokenizer::add(const Component& component) {
  const std::string type = component.type();
  if (type == "Sequence") {
    for (const Component& part : component.list("pretokenizers")) add(part);
    return;
  }
  can_use_bytes_ = false;
  if (type == "ByteLevel") {
    const bool prefix_space = component.flag("add_prefix_space", true);
    const bool use_regex = component.flag("use_regex", true);
    add_step(component, [=](const Piece& piece, PieceSink& sink) {
      cut_byte_level(piece, prefix_space, use_regex, sink);
    });
    can_use_bytes_ = ++num_byte_levels_ == 1;
    prefix_space_ = prefix_space;
    use_regex_ = use_regex;
  } else if (type == "Split") {
    add_split(component);
  } else if (type == "Digits") {
    const bool individual = component.flag("individual_digits", false);
    add_step(component,
             [=](const Piece& piece, PieceSink& sink) { cut_digits(piece, individual, sink); });
  } else if (type == "Metaspace") {
    add_metaspace(component);
  } else {
    component.unsupported("pre-tokenizer", "ByteLevel, Split, Digits, Metaspace, Sequence");
  }
}

void PreTokenizer::add_split(const Component& component) {
  const Behavior behavior = read_behavior(component);
  const bool invert = component.flag("invert", false);
  add_step(component, [=, pattern = Pattern(component)](const Piece& piece, PieceSink& sink) {
    std::vector<Span> spans = spans_of(pattern, piece.text, invert);
    cut(piece, spans, behavior, sink);
  });
}

void PreTokenizer::add_metaspace(const Component& component) {
  const std::string mark = component.text("replacement");
  if (mark.empty()) fail(ErrorCode::damaged, "{}: replacement is empty", component.where);
  // Files from before prepend_scheme have add_prefix_space instead.
  const std::string before = component.flag("add_prefix_space", true) ? "always" : "never";
  const std::string scheme = component.text("prepend_scheme", before);
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    fail(ErrorCode::unsupported,
         "{}: prepend_scheme \"{}\" is not supported (known: always, first, never)",
         component.where, printable(scheme));
  }
  const bool split = component.flag("split", true);
  add_step(component, [=](const Piece& piece, PieceSink& sink) {
    std::string text;
    size_t start = 0;
    for (const char& c : piece.text) {
      if (static_cast<size_t>(&c - piece.text.data()) == piece.start) start = text.size();
      if (c == ' ') {
        text += mark;
        sink.growth->check(text.size(), *sink.where);
      } else {
        text += c;
      }
    }
    if (piece.start >= piece.text.size()) start = text.size();
    const bool prepend = scheme == "always" || (scheme == "first" && piece.start > 0);
    if (prepend && !text.starts_with(mark)) {
      text.insert(0, mark);
      if (start > 0) start += mark.size();
    }
    const Piece marked{sink.keep(std::move(text)), start};
    if (!split) return sink.add(marked.text, marked.start);
    std::vector<Span> spans;
    size_t done = 0;
    for (size_t at = marked.text.find(mark); at != std::string_view::npos;
         at = marked.text.find(mark, done)) {
      if (at > done) spans.push_back({done, at, false});
      done = at + mark.size();
      spans.push_back({at, done, true});
    }
    if (done < marked.text.size()) spans.push_back({done, marked.text.size(), false});
    cut(marked, spans, Behavior::merged_with_next, sink);
  });
}

std::vector<Piece> PreTokenizer::run(std::string_view text, size_t start, Growth& growth,
                                     std::deque<std::string>& storage) const {
  std::vector<Piece> pieces{{text, start}};
  for (const Step& step : steps_) {
    PieceSink sink{{}, &storage, &growth, &step.where};
    sink.pieces.reserve(pieces.size());
    for (const Piece& piece : pieces) step.run(piece, sink);
    pieces = std::move(sink.pieces);
  }
  return pieces;
}

}  // namespace osp::tokenizer
