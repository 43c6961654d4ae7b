#include "osp/data/text_reader.h"

#include <algorithm>
#include <utility>

#include "osp/base/error.h"
#include "osp/data/text_reader_jsonl.h"
#include "osp/data/text_reader_parquet.h"

namespace osp {
namespace {

constexpr size_t kReadBytes = 256 << 10;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// Thrown through the splitters' callbacks when the consumer wants no more.
struct Stopped {};

// Gathers documents into chunks.
class ChunkBuilder {
 public:
  ChunkBuilder(const TextReadOptions& options, const std::function<bool(DocumentChunk)>& sink)
      : options_(options), sink_(sink) {}

  void begin_file(size_t file, bool json_lines) {
    chunk_ = {.file = file, .json_lines = json_lines, .bytes = {}, .documents = {}};
  }
  void add(std::string_view document, uint64_t line, uint64_t file_bytes_read) {
    chunk_.documents.push_back({chunk_.bytes.size(), document.size(), line});
    chunk_.bytes += document;
    // Empty documents count a little, so that a file of nothing else is cut as well.
    const size_t weight =
        chunk_.bytes.size() + chunk_.documents.size() * sizeof(DocumentChunk::Span);
    if (weight >= options_.chunk_bytes) flush(file_bytes_read);
  }
  void add_null() { ++chunk_.num_null; }
  void add_too_long() { ++chunk_.num_too_long; }
  void flush(uint64_t file_bytes_read) {
    DocumentChunk next{
        .file = chunk_.file, .json_lines = chunk_.json_lines, .bytes = {}, .documents = {}};
    chunk_.file_bytes_read = file_bytes_read;
    if (!sink_(std::exchange(chunk_, std::move(next)))) throw Stopped{};
  }

 private:
  const TextReadOptions& options_;
  const std::function<bool(DocumentChunk)>& sink_;
  DocumentChunk chunk_;
};

// Calls feed(piece) for all of a file but a byte order mark.
template <class Feed>
void for_each_piece(ByteStream& stream, Feed feed) {
  std::vector<char> buffer(kReadBytes);
  bool at_start = true;
  size_t filled = 0;
  while (true) {
    const size_t count = stream.read(buffer.data() + filled, buffer.size() - filled);
    filled += count;
    if (at_start && count > 0 && filled < kByteOrderMark.size()) continue;
    std::string_view piece(buffer.data(), filled);
    if (at_start && piece.starts_with(kByteOrderMark)) piece.remove_prefix(kByteOrderMark.size());
    at_start = false;
    filled = 0;
    feed(piece);
    if (count == 0) return;
  }
}

void read_stream(const TextInput& input, const TextReadOptions& options, uint64_t bytes_before,
                 ChunkBuilder& builder) {
  const auto stream = open_byte_stream(input.path, input.compression);
  const auto add = [&](std::string_view document, uint64_t line) {
    builder.add(document, line, bytes_before + stream->file_bytes_read());
  };
  if (input.format == TextFormat::json_lines) {
    std::function<void(uint64_t)> on_too_long;
    if (options.on_bad_line != OnBadLine::stop) {
      on_too_long = [&](uint64_t) { builder.add_too_long(); };
    }
    LineSplitter lines(add, input.path, options.max_line_bytes, on_too_long);
    for_each_piece(*stream, [&](std::string_view piece) { lines.feed(piece); });
    lines.finish();
  } else {
    DocumentSplitter splitter(
        options.policy, [&](std::string_view document) { add(document, 0); }, input.path);
    for_each_piece(*stream, [&](std::string_view piece) { splitter.feed(piece); });
    splitter.finish();
  }
}

void read_one(const TextInput& input, const TextReadOptions& options, uint64_t bytes_before,
              ChunkBuilder& builder) {
  if (input.format != TextFormat::parquet) {
    read_stream(input, options, bytes_before, builder);
    return;
  }
  const auto position = [&](double progress) {
    return bytes_before + static_cast<uint64_t>(progress * static_cast<double>(input.file_bytes));
  };
  read_parquet(input.path, input.compression, options.field,
               {.on_text = [&](std::string_view text,
                               double progress) { builder.add(text, 0, position(progress)); },
                .on_null = [&] { builder.add_null(); }});
}

}  // namespace

void read_documents(const std::vector<TextInput>& files, const TextReadOptions& options,
                    const std::function<bool(DocumentChunk)>& sink) {
  OSP_CHECK(options.chunk_bytes > 0, "chunks of no bytes");
  ChunkBuilder builder(options, sink);
  uint64_t bytes_before = 0;
  try {
    for (size_t i = 0; i < files.size(); ++i) {
      builder.begin_file(i, files[i].format == TextFormat::json_lines);
      read_one(files[i], options, bytes_before, builder);
      bytes_before += files[i].file_bytes;
      builder.flush(bytes_before);
    }
  } catch (const Stopped&) {
    return;
  }
}

}  // namespace osp
