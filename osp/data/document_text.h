// One text from a file of documents.
//
// Tested by tests/python/test_eval.py.
#pragma once

#include <cstdint>
#include <string>

namespace osp {

// True if the name says JSON lines or Parquet, packed or not.
bool has_documents(const std::string& path);

// The documents of a JSON lines or Parquet file (.jsonl .ndjson .parquet, also with .gz or .zst)
// joined by blank lines, which is how the rows of WikiText are read for perplexity; reading ends
// after the document that reaches `max_bytes`. Any other file is one text, returned as it is.
// Field: the name of the text in a document. Errors of read_documents.
std::string read_document_text(const std::string& path, const std::string& field,
                               uint64_t max_bytes);

}  // namespace osp
