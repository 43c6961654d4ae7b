#include "osp/data/shards_build.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/base/timing.h"
#include "osp/data/document_pipeline.h"
#include "osp/data/document_split.h"
#include "osp/data/shards_writer.h"
#include "osp/data/text_reader_jsonl.h"

namespace osp {
namespace {

// Ids of the documents of a chunk that belong to one split.
struct EncodedSplit {
  std::vector<int32_t> ids;
  uint64_t num_documents = 0;
};

struct EncodedChunk {
  size_t file = 0;
  EncodedSplit train, validation;
  uint64_t text_bytes = 0;
  uint64_t dropped_documents = 0;
  BadLines bad_lines;
  uint64_t file_bytes_read = 0;
};

void encode_document(std::string_view text, const ShardBuildOptions& options,
                     const TextEncoder& encoder, EncodedChunk& encoded) {
  if (is_blank(text)) {
    ++encoded.dropped_documents;
    return;
  }
  EncodedSplit& split =
      is_held_out(text, options.validation_fraction) ? encoded.validation : encoded.train;
  if (options.begin_of_document >= 0) {
    split.ids.push_back(static_cast<int32_t>(options.begin_of_document));
  }
  encoder.append(text, split.ids);
  if (options.end_of_document >= 0) {
    split.ids.push_back(static_cast<int32_t>(options.end_of_document));
  }
  ++split.num_documents;
  encoded.text_bytes += text.size();
}

// The text of one line of a chunk.
std::optional<std::string> line_text(const DocumentChunk& chunk, size_t i,
                                     const ShardBuildOptions& options, BadLines& bad) {
  try {
    return json_line_text(chunk.document(i), {options.read.field, options.read.on_bad_line},
                          options.files[chunk.file].path, chunk.documents[i].line, bad);
  } catch (const Error& error) {
    fail(error.code(), "{} (--on-bad-line skip leaves such lines out, repair mends what it can)",
         error.what());
  }
}

std::string counts_text(const LineCounts& counts) {
  std::string text;
  for (const auto& [reason, count] : counts) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", reason, count);
  }
  return text;
}

EncodedChunk encode_chunk(const DocumentChunk& chunk, const ShardBuildOptions& options,
                          const TextEncoder& encoder) {
  EncodedChunk encoded{.file = chunk.file,
                       .train = {},
                       .validation = {},
                       .dropped_documents = chunk.num_null,
                       .bad_lines = {},
                       .file_bytes_read = chunk.file_bytes_read};
  if (chunk.num_too_long > 0) encoded.bad_lines.skipped["too_long"] = chunk.num_too_long;
  for (size_t i = 0; i < chunk.documents.size(); ++i) {
    if (!chunk.json_lines) {
      encode_document(chunk.document(i), options, encoder, encoded);
      continue;
    }
    const LineCounts skipped = encoded.bad_lines.skipped;
    const std::optional<std::string> text = line_text(chunk, i, options, encoded.bad_lines);
    if (text) {
      encode_document(*text, options, encoder, encoded);
    } else if (encoded.bad_lines.skipped == skipped) {
      ++encoded.dropped_documents;
    }
  }
  return encoded;
}

// Writes encoded chunks and keeps count.
class ShardSink {
 public:
  ShardSink(const ShardBuildOptions& options, const TextEncoder& encoder, Console& console)
      : options_(options),
        console_(console),
        writer_(options.out, {.vocabulary = encoder.vocabulary,
                              .begin_of_document = options.begin_of_document,
                              .end_of_document = options.end_of_document,
                              .shard_tokens = options.shard_tokens,
                              .tokenizer_json = encoder.json,
                              .document_policy = describe(options.read.policy),
                              .validation_fraction = options.validation_fraction,
                              .on_bad_line = options.read.on_bad_line,
                              .overwrite = options.overwrite}) {
    for (const TextInput& file : options.files) {
      sources_.push_back({.path = file.path});
      total_file_bytes_ += file.file_bytes;
    }
  }

  void add(const EncodedChunk& chunk) {
    if (options_.cancelled && options_.cancelled()) {
      fail(ErrorCode::interrupted, "stopped by {}; nothing was written to {}", stop_signal_name(),
           options_.out);
    }
    append("train", chunk.train);
    append("validation", chunk.validation);
    writer_.add_bad_lines(chunk.bad_lines);
    SourceEntry& source = sources_[chunk.file];
    source.num_documents += chunk.train.num_documents + chunk.validation.num_documents;
    source.text_bytes += chunk.text_bytes;
    report_.text_bytes += chunk.text_bytes;
    report_.dropped_documents += chunk.dropped_documents;
    show_progress(chunk.file_bytes_read);
  }

  ShardBuildReport finish() {
    console_.end_status();
    if (num_train_ + num_validation_ == 0) {
      fail(ErrorCode::damaged, "no text in {} ({} files, {} empty documents): nothing to tokenize",
           options_.files.front().path, options_.files.size(), report_.dropped_documents);
    }
    if (num_train_ == 0) {
      fail(ErrorCode::usage,
           "all {} documents fell into the validation split: use a smaller --validation-fraction "
           "than {}, or cut the text into more documents with --documents",
           num_validation_, options_.validation_fraction);
    }
    if (num_validation_ == 0 && options_.validation_fraction > 0) {
      console_.warn(
          "none of the {} documents fell into the validation split (fraction {}); there is "
          "no split \"validation\"",
          num_train_, options_.validation_fraction);
    }
    for (SourceEntry& source : sources_) writer_.add_source(std::move(source));
    report_.index = writer_.commit();
    const BadLines& bad = report_.index.bad_lines;
    if (!bad.skipped.empty()) console_.warn("bad lines left out: {}", counts_text(bad.skipped));
    if (!bad.repaired.empty()) console_.warn("bad lines repaired: {}", counts_text(bad.repaired));
    report_.seconds = clock_seconds() - start_s_;
    return std::move(report_);
  }

 private:
  void append(const std::string& split, const EncodedSplit& encoded) {
    if (encoded.num_documents == 0) return;
    writer_.append(split, encoded.ids, encoded.num_documents);
    (split == "train" ? num_train_ : num_validation_) += encoded.num_documents;
    num_tokens_ += encoded.ids.size();
  }

  void show_progress(uint64_t file_bytes_read) {
    const double elapsed_s = std::max(clock_seconds() - start_s_, 1e-9);
    const double share = total_file_bytes_ == 0 ? 1.0
                                                : static_cast<double>(file_bytes_read) /
                                                      static_cast<double>(total_file_bytes_);
    const double left_s = share > 0 ? elapsed_s * (1 - share) / share : -1;
    console_.status(fmt::format("tokenize {:3.0f} %  {} of text, {:.1f} MB/s, {} tokens, {} left",
                                100 * share, format_bytes(static_cast<double>(report_.text_bytes)),
                                static_cast<double>(report_.text_bytes) / 1e6 / elapsed_s,
                                format_count(static_cast<long long>(num_tokens_)),
                                format_duration(left_s)));
  }

  const ShardBuildOptions& options_;
  Console& console_;
  ShardSetWriter writer_;
  ShardBuildReport report_;
  std::vector<SourceEntry> sources_;
  uint64_t total_file_bytes_ = 0, num_tokens_ = 0, num_train_ = 0, num_validation_ = 0;
  double start_s_ = clock_seconds();
};

}  // namespace

TextEncoder text_encoder(const Tokenizer& tokenizer) {
  return {
      .append = [&tokenizer](std::string_view text,
                             std::vector<int32_t>& ids) { tokenizer.encode_append(text, {}, ids); },
      .vocabulary = tokenizer.vocabulary(),
      .json = tokenizer.json()};
}

ShardBuildReport build_shards(const ShardBuildOptions& options, const TextEncoder& encoder,
                              Console& console) {
  OSP_CHECK(!options.files.empty() && options.num_threads > 0, "{} files, {} threads",
            options.files.size(), options.num_threads);
  ShardSink sink(options, encoder, console);
  const auto num_threads = static_cast<size_t>(options.num_threads);
  OrderedPipeline<DocumentChunk, EncodedChunk>(
      {.num_workers = options.num_threads, .max_in_flight = 2 * num_threads + 2},
      [&](const auto& push) { read_documents(options.files, options.read, push); },
      [&](const DocumentChunk& chunk) { return encode_chunk(chunk, options, encoder); },
      [&](const EncodedChunk& chunk) { sink.add(chunk); })
      .run();
  return sink.finish();
}

}  // namespace osp
