// The division of plain text into documents, and the choice of those that are held out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace osp {

// The unit that is one document of a text or Markdown file. (A JSON line or a Parquet row
// always is one.)
enum class DocumentUnit {
  file,       // the whole file
  line,       // every line
  paragraph,  // lines between blank lines
  entry,      // as in a dictionary: begins at a line without indent that follows a blank line
  separator,  // the text between two occurrences of a separator
};

struct DocumentPolicy {
  DocumentUnit unit = DocumentUnit::file;
  std::string separator = {};  // for DocumentUnit::separator
};

// The policy named "file", "lines", "paragraphs" or "entries". A separator that is not empty takes
// the place of the unit; it may contain the escapes \n, \r, \t, \\ and \xHH. Error(usage) for
// anything else.
DocumentPolicy parse_document_policy(const std::string& name, const std::string& separator);
// A policy in words, for index.json.
std::string describe(const DocumentPolicy& policy);

// True if the text is empty or white space only (as in the C locale).
bool is_blank(std::string_view text);

// Cuts a stream of text into documents. Holds at most one document and one line. For lines,
// paragraphs and entries, blank lines (nothing but white space) between documents and the line
// break at the end of a document belong to none. Files and separated parts keep all their bytes.
class DocumentSplitter {
 public:
  using Sink = std::function<void(std::string_view document)>;
  // A line of more than `max_line_bytes`, where the policy is about lines, is an Error(unsupported)
  // that names `where` and the line.
  DocumentSplitter(const DocumentPolicy& policy, Sink sink, std::string where = "text",
                   size_t max_line_bytes = size_t{1} << 30);

  void feed(std::string_view bytes);
  void finish();

 private:
  void feed_line(std::string_view line);
  void append_to_line(std::string_view bytes);
  void feed_separated(std::string_view bytes);
  void emit();

  DocumentPolicy policy_;
  Sink sink_;
  std::string document_;  // the document so far
  std::string held_;      // blank lines that belong to it only if another line follows
  std::string line_;      // the beginning of a line whose end has not been seen
  bool after_blank_ = true;
  std::string where_;
  size_t max_line_bytes_;
  uint64_t num_lines_ = 0;  // whole ones before line_
};

// True if the document belongs to the validation split: the first 64 bits of its SHA-256 lie below
// `fraction` of the range. Depends on nothing but the document's bytes, so equal documents are on
// the same side, order and other files do not matter, and a larger fraction only adds documents.
bool is_held_out(std::string_view document, double fraction);

}  // namespace osp
