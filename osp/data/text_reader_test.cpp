#include "osp/data/text_reader.h"

#include <arrow/api.h>
#include <arrow/io/memory.h>
#include <gtest/gtest.h>
#include <parquet/arrow/writer.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>

#include "osp/base/file.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"
#include "osp/data/text_reader_jsonl.h"

namespace osp {
namespace {

std::string gzip(std::string_view text) {
  z_stream stream{};
  OSP_CHECK(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK,
            "zlib");
  std::string out(deflateBound(&stream, text.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  OSP_CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END, "zlib");
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd(std::string_view text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

std::string read_all(const std::string& path, Compression compression, size_t piece) {
  const auto stream = open_byte_stream(path, compression);
  std::string all, buffer(piece, '\0');
  while (const size_t count = stream->read(buffer.data(), piece)) all.append(buffer, 0, count);
  return all;
}

// Longer than the stream's buffers even when compressed.
std::string long_text() {
  std::string text;
  uint32_t state = 1;
  while (text.size() < 3'000'000) {
    state = state * 1664525u + 1013904223u;
    text += static_cast<char>('a' + (state >> 24) % 26);
  }
  return text;
}

TEST(ByteStream, AllPackingsGiveTheSameBytes) {
  TestFolder folder;
  for (const std::string& text : {std::string(), std::string("x"), long_text()}) {
    const std::string half = text.substr(0, text.size() / 2), rest = text.substr(text.size() / 2);
    struct Case {
      std::string bytes;
      Compression compression;
    };
    const Case cases[] = {{text, Compression::none},
                          {gzip(text), Compression::gzip},
                          {gzip(half) + gzip(rest), Compression::gzip},
                          {gzip(text) + std::string(700, '\0'), Compression::gzip},
                          {zstd(text), Compression::zstd},
                          {zstd(half) + zstd(rest), Compression::zstd}};
    for (const Case& c : cases) {
      const std::string path = folder.write("x", c.bytes);
      for (const size_t piece : {size_t{1000}, size_t{1} << 20}) {
        EXPECT_TRUE(read_all(path, c.compression, piece) == text)
            << static_cast<int>(c.compression) << " " << text.size();
      }
    }
  }
}

TEST(ByteStream, TruncatedAndCorruptPackingsAreRefusedWithTheirPlace) {
  TestFolder folder;
  const std::string text = long_text();
  for (const Compression compression : {Compression::gzip, Compression::zstd}) {
    const std::string good = compression == Compression::gzip ? gzip(text) : zstd(text);
    std::string flipped = good;
    flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 0x10);
    const std::string cases[] = {"",
                                 good.substr(0, 3),
                                 good.substr(0, good.size() / 2),
                                 good + "xx",
                                 "plain text, much longer than any header",
                                 flipped,
                                 good.substr(0, good.size() - 1)};
    for (size_t i = 0; i < std::size(cases); ++i) {
      // A flipped byte of zstd data without a checksum may go unnoticed.
      if (compression == Compression::zstd && i == 5) continue;
      const std::string path = folder.write("x", cases[i]);
      SCOPED_TRACE(fmt::format("case {} of compression {}", i, static_cast<int>(compression)));
      // An empty zstd file is a stream of no frames for some tools; not for us.
      expect_error(ErrorCode::damaged, {"at byte"}, [&] { read_all(path, compression, 1 << 20); });
    }
  }
}

std::vector<std::string> names_of(const TextInputs& inputs, const TestFolder& folder) {
  std::vector<std::string> names;
  for (const TextInput& file : inputs.files)
    names.push_back(file.path.substr(folder.path().size() + 1));
  return names;
}

TEST(TextInputs, FoldersAreReadInOrderAndGlobsAreExpanded) {
  TestFolder folder;
  for (const char* name : {"b.txt", "a/z.md", "a/B.JSONL.GZ", "a-b.txt.zst", ".hidden.txt",
                           ".git/x.txt", "a/picture.png", "t.parquet", "g.dict.dz"}) {
    folder.write(name, "x");
  }
  using Names = std::vector<std::string>;
  const TextInputs all = find_text_inputs({folder.path()}, "");
  EXPECT_EQ(names_of(all, folder),
            (Names{"a-b.txt.zst", "a/B.JSONL.GZ", "a/z.md", "b.txt", "g.dict.dz", "t.parquet"}));
  EXPECT_EQ(all.ignored, (Names{folder / "a/picture.png"}));
  EXPECT_EQ(all.files[0].compression, Compression::zstd);
  EXPECT_EQ(all.files[1].compression, Compression::gzip);
  EXPECT_EQ(all.files[1].format, TextFormat::json_lines);
  EXPECT_EQ(all.files[4].compression, Compression::gzip);
  EXPECT_EQ(all.files[5].format, TextFormat::parquet);
  // In the order of the arguments, each file once.
  EXPECT_EQ(names_of(find_text_inputs({folder / "b.txt", folder / "*.txt*", folder / "b.txt"}, ""),
                     folder),
            (Names{"b.txt", "a-b.txt.zst"}));
  const TextInputs forced = find_text_inputs({folder / "a/picture.png"}, "jsonl");
  EXPECT_EQ(forced.files.at(0).format, TextFormat::json_lines);
}

TEST(TextInputs, NothingToReadIsAUsageError) {
  TestFolder folder;
  folder.write("pictures/a.png", "x");
  for (const std::string& argument : {folder / "missing.txt", folder / "*.none",
                                      folder / "pictures", folder / "pictures/a.png"}) {
    SCOPED_TRACE(argument);
    expect_error(ErrorCode::usage, {}, [&] { find_text_inputs({argument}, ""); });
  }
  EXPECT_THROW(find_text_inputs({folder / "pictures"}, "word"), Error);
}

TEST(LineSplitter, NumbersLinesAndLeavesOutBlankOnes) {
  const std::string text = "{\"a\"}\n\n  \r\nb\r\nc";
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    std::vector<std::pair<std::string, uint64_t>> lines;
    LineSplitter splitter([&](std::string_view line, uint64_t n) { lines.emplace_back(line, n); },
                          "x");
    for (size_t i = 0; i < text.size(); i += piece) splitter.feed(text.substr(i, piece));
    splitter.finish();
    EXPECT_EQ(lines,
              (std::vector<std::pair<std::string, uint64_t>>{{"{\"a\"}", 1}, {"b", 4}, {"c", 5}}));
  }
}

// The whole message, or "" if all of `text` was taken.
template <class Splitter>
std::string refusal(Splitter splitter, const std::string& text, size_t piece) {
  try {
    for (size_t i = 0; i < text.size(); i += piece) splitter.feed(text.substr(i, piece));
    splitter.finish();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    return error.what();
  }
  return "";
}

TEST(LineSplitter, ALineThatIsTooLongIsNamed) {
  const auto ignore = [](std::string_view, uint64_t) {};
  for (size_t piece = 1; piece <= 11; ++piece) {
    EXPECT_EQ(refusal(LineSplitter(ignore, "x", 4), "ab\nabcd\nab", piece), "");
    for (const char* text : {"ab\nabcde\n", "ab\nabcde"}) {
      EXPECT_EQ(refusal(LineSplitter(ignore, "x", 4), text, piece),
                "x: line 2 has more than 4 bytes: cut it into several documents");
    }
  }
}

TEST(DocumentSplitter, ALineThatIsTooLongIsNamed) {
  const auto ignore = [](std::string_view) {};
  const DocumentPolicy lines{DocumentUnit::line};
  for (size_t piece = 1; piece <= 11; ++piece) {
    EXPECT_EQ(refusal(DocumentSplitter(lines, ignore, "x", 4), "ab\nabcd\nab", piece), "");
    for (const char* text : {"ab\nabcde\n", "ab\nabcde"}) {
      EXPECT_EQ(refusal(DocumentSplitter(lines, ignore, "x", 4), text, piece),
                "x: line 2 has more than 4 bytes: cut it into several lines");
    }
  }
}

TEST(JsonLines, FieldNamesAreEscapedAndCutInMessages) {
  const std::string message = message_of(ErrorCode::damaged, [] {
    json_line_text("{\"\\u001b[31m" + std::string(1000, 'x') + "\": 1}", "text", "x", 1);
  });
  EXPECT_EQ(message.find('\x1B'), std::string::npos);
  EXPECT_NE(message.find("\\x1b[31mx"), std::string::npos) << message;
  EXPECT_LT(message.size(), 300u);
}

TEST(JsonLines, TextNullAndDamagedLines) {
  EXPECT_EQ(json_line_text(R"({"id": 3, "text": "a\u00e9\n"})", "text", "x", 1), "a\xC3\xA9\n");
  EXPECT_EQ(json_line_text(R"({"text": null})", "text", "x", 1), std::nullopt);
  const std::string cases[] = {"{",
                               "[1]",
                               "\"text\"",
                               R"({"body": "a"})",
                               R"({"text": 3})",
                               R"({"text": "a"} x)",
                               R"({"text": "a", "text": "b"})",
                               R"({"text": "\ud800"})",
                               "{\"text\": \"\xFF\"}"};
  for (const std::string& line : cases) {
    SCOPED_TRACE(line);
    const std::string message =
        message_of(ErrorCode::damaged, [&] { json_line_text(line, "text", "corpus.jsonl", 17); });
    EXPECT_EQ(message.rfind("corpus.jsonl: line 17", 0), 0u) << message;
  }
}

TEST(ReadDocuments, ChunksHoldAllDocumentsInOrderWhateverTheirSize) {
  TestFolder folder;
  std::string text;
  std::vector<std::string> expected;
  for (int i = 0; i < 500; ++i) {
    expected.push_back(
        std::string(static_cast<size_t>(i * 37 % 400) + 1, static_cast<char>('a' + i % 26)));
    text += expected.back() + "\n";
  }
  folder.write("a.txt.gz", gzip("\xEF\xBB\xBF" + text));
  folder.write("b.txt", "last\n");
  const TextInputs inputs = find_text_inputs({folder.path()}, "");
  expected.push_back("last");
  for (const size_t chunk_bytes : {size_t{1}, size_t{1000}, size_t{1} << 20}) {
    std::vector<std::string> documents;
    size_t largest = 0;
    read_documents(inputs.files,
                   {.policy = parse_document_policy("lines", ""), .chunk_bytes = chunk_bytes},
                   [&](const DocumentChunk& chunk) {
                     for (size_t i = 0; i < chunk.documents.size(); ++i) {
                       documents.emplace_back(chunk.document(i));
                     }
                     largest = std::max(largest, chunk.bytes.size());
                     return true;
                   });
    EXPECT_EQ(documents, expected);
    EXPECT_LE(largest, chunk_bytes + 400);  // no chunk exceeds the limit by more than a document
  }
}

TEST(ReadDocuments, AFalseSinkEndsTheReading) {
  TestFolder folder;
  folder.write("a.txt", "a\nb\nc\n");
  int chunks = 0;
  read_documents(find_text_inputs({folder / "a.txt"}, "").files,
                 {.policy = parse_document_policy("lines", ""), .chunk_bytes = 1},
                 [&](const DocumentChunk&) { return ++chunks < 2; });
  EXPECT_EQ(chunks, 2);
}

TEST(ReadDocuments, AFileThatIsNoParquetIsDamaged) {
  TestFolder folder;
  for (const std::string& bytes : {std::string(), std::string("PAR1"), std::string(5000, 'x')}) {
    const std::string path = folder.write("a.parquet", bytes);
    const std::string message = message_of(ErrorCode::damaged, [&] {
      read_documents(find_text_inputs({path}, "").files, {},
                     [](const DocumentChunk&) { return true; });
    });
    EXPECT_EQ(message.rfind(path, 0), 0u) << bytes.size() << ": " << message;
  }
}

template <class Builder, class Value>
std::shared_ptr<arrow::Array> array_of(const Value& value) {
  Builder builder;
  OSP_CHECK(builder.Append(value).ok(), "arrow");
  return builder.Finish().ValueOrDie();
}

// A struct "a" with the numbers "b" before a text column that is named "a.b".
TEST(ReadDocuments, AParquetColumnIsFoundByItsOwnNameNotByAPath) {
  const auto inner = array_of<arrow::Int64Builder>(7);
  const auto nested = arrow::StructArray::Make({inner}, std::vector<std::string>{"b"}).ValueOrDie();
  const auto schema =
      arrow::schema({arrow::field("a", nested->type()), arrow::field("a.b", arrow::utf8())});
  const auto table =
      arrow::Table::Make(schema, {nested, array_of<arrow::StringBuilder>("the text")});
  const auto sink = arrow::io::BufferOutputStream::Create().ValueOrDie();
  ASSERT_TRUE(
      parquet::arrow::WriteTable(*table, arrow::default_memory_pool(), sink, /*chunk_size=*/10)
          .ok());
  TestFolder folder;
  const std::string path = folder.write("a.parquet", sink->Finish().ValueOrDie()->ToString());
  std::string text;
  read_documents(find_text_inputs({path}, "").files, {.field = "a.b"},
                 [&](const DocumentChunk& chunk) {
                   text += chunk.bytes;
                   return true;
                 });
  EXPECT_EQ(text, "the text");
}

}  // namespace
}  // namespace osp
