#include "osp/data/document_text.h"

#include <optional>
#include <vector>

#include "osp/base/file.h"
#include "osp/data/object_store.h"
#include "osp/data/text_reader.h"
#include "osp/data/text_reader_jsonl.h"

namespace osp {

bool has_documents(const std::string& path_or_uri) {
  const std::string path = uri_without_query(path_or_uri);
  for (const char* ending : {".jsonl", ".ndjson", ".parquet"}) {
    for (const char* packed : {"", ".gz", ".zst"}) {
      if (path.ends_with(std::string(ending) + packed)) return true;
    }
  }
  return false;
}

std::string read_document_text(const std::string& path, const std::string& field,
                               uint64_t max_bytes) {
  if (!has_documents(path)) {
    return is_store_uri(path) ? ObjectStore(path).read("", size_t{1} << 40) : read_file(path);
  }
  std::string text;
  bool first = true;
  const std::vector<TextInput> files = find_text_inputs({path}, "").files;
  read_documents(files, {.field = field}, [&](const DocumentChunk& chunk) {
    for (size_t i = 0; i < chunk.documents.size(); ++i) {
      std::optional<std::string> document(chunk.document(i));
      if (chunk.json_lines) {
        document = json_line_text(*document, field, path, chunk.documents[i].line);
      }
      if (!document) continue;
      if (!first) text += "\n\n";
      first = false;
      text += *document;
    }
    return text.size() < max_bytes;
  });
  return text;
}

}  // namespace osp
