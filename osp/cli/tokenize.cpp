// osp tokenize: turns text into token shards, or lines of JSON strings into lines of token ids.
#include <fmt/ranges.h>

#include <algorithm>
#include <iostream>
#include <limits>
#include <thread>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/base/output.h"
#include "osp/cli/command.h"
#include "osp/data/shards_build.h"
#include "osp/data/shards_writer.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {
namespace {

struct TokenizeCommand {
  CommonOptions common;
  std::vector<std::string> inputs;
  std::string tokenizer;
  std::string out;
  std::string format;
  std::string field = "text";
  std::string documents = "file";
  std::string document_separator;
  std::string on_bad_line = "stop";
  std::string begin_of_document = "none";
  std::string end_of_document = "auto";
  uint64_t shard_tokens = 100'000'000;
  double validation_fraction = 0;
  int64_t threads = 0;
  bool overwrite = false;
  bool from_stdin = false;
  bool special_tokens = false;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("inputs", self.inputs,
          "text files, folders or globs to read: .txt, .md, .dict, .jsonl and .parquet, each also "
          "as .gz or .zst; s3://BUCKET/KEY and gs://BUCKET/KEY name those of an object store",
          {.positional = true});
    visit.group("Input");
    visit("format", self.format,
          "format of the input files, whatever their names say: text, jsonl or parquet");
    visit("field", self.field, "field of JSON lines or column of Parquet that holds the text",
          {.value = "NAME"});
    visit("documents", self.documents,
          "what makes a document in a text file: file, lines, paragraphs, or entries of a "
          "dictionary",
          {.value = "UNIT"});
    visit("document_separator", self.document_separator,
          "string that separates the documents of a text file, instead of --documents; escapes: "
          "\\n, \\t, \\xHH");
    visit("on_bad_line", self.on_bad_line, Choices{{"stop", "skip", "repair"}},
          "what to do about a line of JSON lines whose text cannot be read: stop with its number, "
          "skip it, or repair what can be and skip the rest; both are counted by reason in "
          "index.json");
    visit("stdin", self.from_stdin,
          "read one JSON string per line from stdin and print one JSON array of token ids for "
          "each; writes no shards");
    visit.group("Tokens");
    visit("tokenizer", self.tokenizer, "tokenizer.json, or a folder that holds one",
          {.value = "PATH", .required = true});
    visit("begin_of_document", self.begin_of_document,
          "token or token id to put before every document; none = no token", {.value = "TOKEN"});
    visit("end_of_document", self.end_of_document,
          "token or token id to put after every document; auto = the one the tokenizer defines, "
          "none = no token",
          {.value = "TOKEN"});
    visit("special_tokens", self.special_tokens,
          "add the tokenizer's own special tokens to each line of --stdin");
    visit.group("Output");
    visit("out", self.out, "folder to write the token shards to; required without --stdin",
          {.value = "FOLDER"});
    visit("overwrite", self.overwrite, "replace the shards that the --out folder holds");
    visit("validation_fraction", self.validation_fraction, Range{0, 1},
          "fraction of the documents, chosen by their hash, that forms the validation split");
    visit("shard_tokens", self.shard_tokens, Range{1, 1099511627776.0},
          "largest number of tokens per shard file");
    visit("threads", self.threads, Range{0, 1024}, "number of encoding threads; 0 = one per core",
          {.affects_results = false});
    CommonOptions::fields(visit, self.common);
  }
};

// A number is an id, anything else the content of a token.
int64_t named_token(const Tokenizer& tokenizer, const char* option, const std::string& name) {
  const bool number =
      !name.empty() && name.size() <= 9 &&
      std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; });
  const int64_t id = number ? std::stoll(name) : tokenizer.token_id(name);
  if (id < 0 || id >= tokenizer.vocabulary()) {
    fail(ErrorCode::usage, "{} {}: neither a token of the tokenizer nor an id below {}", option,
         name, tokenizer.vocabulary());
  }
  return id;
}

int64_t document_token(const Tokenizer& tokenizer, const char* option, const std::string& name) {
  if (name == "none") return -1;
  if (name != "auto") return named_token(tokenizer, option, name);
  const int64_t id = tokenizer.end_of_document();
  if (id < 0) {
    fail(ErrorCode::usage,
         "the tokenizer has no known special token that ends documents: name one with {} TOKEN, or "
         "pass {} none",
         option, option);
  }
  return id;
}

Json split_json(const ShardIndex& index, const std::string& name) {
  const auto found = index.splits.find(name);
  const SplitEntry split = found == index.splits.end() ? SplitEntry{} : found->second;
  return Json{{"tokens", split.num_tokens},
              {"documents", split.num_documents},
              {"shards", split.shards.size()}};
}

Json report_json(const TokenizeCommand& options, const ShardBuildReport& report) {
  const ShardIndex& index = report.index;
  const auto token = [](int64_t id) { return id < 0 ? Json(nullptr) : Json(id); };
  return Json{{"out", options.out},
              {"dtype", index.token_bytes == 2 ? "u16" : "u32"},
              {"vocabulary", index.vocabulary},
              {"tokenizer_sha256", index.tokenizer_sha256},
              {"begin_of_document", token(index.begin_of_document)},
              {"end_of_document", token(index.end_of_document)},
              {"train", split_json(index, "train")},
              {"validation", split_json(index, "validation")},
              {"files", index.sources.size()},
              {"text_bytes", report.text_bytes},
              {"dropped_documents", report.dropped_documents},
              {"bad_lines", bad_lines_to_json(index.on_bad_line, index.bad_lines)},
              {"seconds", report.seconds},
              {"mb_per_s", static_cast<double>(report.text_bytes) / 1e6 / report.seconds}};
}

void print_report(const TokenizeCommand& options, const ShardBuildReport& report) {
  uint64_t num_tokens = 0;
  for (const auto& [name, split] : report.index.splits) {
    num_tokens += split.num_tokens;
    print_out("{:<10} {:>15} tokens  {:>11} documents  {:>4} shards\n", name,
              format_count(static_cast<long long>(split.num_tokens)),
              format_count(static_cast<long long>(split.num_documents)), split.shards.size());
  }
  const auto bytes = static_cast<double>(report.text_bytes);
  print_out("{} of text, {:.2f} bytes a token, {} empty documents dropped; {:.1f} MB/s; wrote {}\n",
            format_bytes(bytes), bytes / static_cast<double>(num_tokens), report.dropped_documents,
            bytes / 1e6 / report.seconds, options.out);
}

// One array of ids per line of standard input, each line a JSON string.
int encode_lines(const TokenizeCommand& options, const Tokenizer& tokenizer) {
  std::string line;
  std::vector<int32_t> ids;
  for (uint64_t number = 1; std::getline(std::cin, line); ++number) {
    const std::string where = fmt::format("standard input: line {}", number);
    const Json value = parse_json(line, where);
    if (!value.is_string()) fail(ErrorCode::damaged, "{}: expected a JSON string", where);
    ids.clear();
    tokenizer.encode_append(value.get_ref<const std::string&>(),
                            {.add_special_tokens = options.special_tokens}, ids);
    print_out("[{}]\n", fmt::join(ids, ", "));
    flush_stdout();  // the writer may wait for the answer to each line
  }
  return 0;
}

// Refuses options about a format that none of the files has.
void check_formats(const TokenizeCommand& options, const std::vector<TextInput>& files) {
  const auto any = [&](TextFormat format) {
    return std::any_of(files.begin(), files.end(),
                       [&](const TextInput& file) { return file.format == format; });
  };
  if (!any(TextFormat::text)) {
    refuse_given(options.common, {"documents", "document_separator"},
                 "is for text files, and there are none (a JSON line or a row of Parquet is a "
                 "document)");
  }
  if (!any(TextFormat::json_lines)) {
    refuse_given(options.common, {"on_bad_line"}, "is for JSON lines, and there are none");
    if (!any(TextFormat::parquet)) {
      refuse_given(options.common, {"field"},
                   "is for JSON lines and Parquet, and there are only text files");
    }
  }
}

int write_shards(const TokenizeCommand& options, const Tokenizer& tokenizer) {
  const ReservedOutput place(options.out, OutputKind::folder);
  check_shard_destination(place.path(), options.overwrite);
  Console console(options.common.quiet);
  TextInputs inputs = find_text_inputs(options.inputs, options.format);
  if (!inputs.ignored.empty()) {
    console.line("ignored {} files whose names end in no known text format, such as {}",
                 inputs.ignored.size(), inputs.ignored.front());
  }
  check_formats(options, inputs.files);
  catch_signals();
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const ShardBuildReport report = build_shards(
      {.files = std::move(inputs.files),
       .read = {.field = options.field,
                .policy = parse_document_policy(options.documents, options.document_separator),
                .on_bad_line = parse_on_bad_line(options.on_bad_line)},
       .out = place.path(),
       .num_threads = options.threads > 0 ? static_cast<int>(options.threads) : cores,
       .shard_tokens = options.shard_tokens,
       .validation_fraction = options.validation_fraction,
       .begin_of_document =
           document_token(tokenizer, "--begin-of-document", options.begin_of_document),
       .end_of_document = document_token(tokenizer, "--end-of-document", options.end_of_document),
       .overwrite = options.overwrite,
       .cancelled = [] { return stop_requested() != 0; }},
      text_encoder(tokenizer), console);
  print_result(
      options.common, [&] { return report_json(options, report); },
      [&] { print_report(options, report); });
  return 0;
}

int run(const TokenizeCommand& options) {
  if (options.from_stdin) {
    if (!options.inputs.empty() || !options.out.empty()) {
      fail(ErrorCode::usage, "--stdin takes neither input files nor --out");
    }
    refuse_given(
        options.common,
        {"format", "field", "documents", "document_separator", "on_bad_line", "begin_of_document",
         "end_of_document", "overwrite", "validation_fraction", "shard_tokens", "threads"},
        "is for files that are written to shards; --stdin only encodes lines");
    return encode_lines(options, Tokenizer::from_file(options.tokenizer));
  }
  if (options.inputs.empty())
    fail(ErrorCode::usage, "no input: name files, folders or globs, or --stdin");
  if (options.out.empty())
    fail(ErrorCode::usage, "--out is missing: name the folder to write shards to");
  if (options.special_tokens) fail(ErrorCode::usage, "--special-tokens needs --stdin");
  if (!options.document_separator.empty()) {
    refuse_given(options.common, {"documents"}, "--document-separator takes its place");
  }
  check_shard_destination(resolved_output(options.out), options.overwrite);
  return write_shards(options, Tokenizer::from_file(options.tokenizer));
}

}  // namespace

void add_tokenize(CommandLine& line) {
  line.command<TokenizeCommand>("tokenize", "turn text into token shards", run);
}

}  // namespace osp
