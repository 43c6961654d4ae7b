// osp tokenize: text to token shards, or lines of JSON strings to lines of ids.
#include <fmt/ranges.h>

#include <algorithm>
#include <csignal>
#include <iostream>
#include <limits>
#include <memory>
#include <thread>

#include "osp/base/error.h"
#include "osp/cli/command.h"
#include "osp/data/shards_build.h"
#include "osp/data/shards_writer.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {
namespace {

struct TokenizeOptions {
  CommonOptions common;
  std::vector<std::string> inputs;
  std::string tokenizer;
  std::string out;
  std::string format;
  std::string field = "text";
  std::string documents = "file";
  std::string document_separator;
  std::string begin_of_document = "none";
  std::string end_of_document = "auto";
  uint64_t shard_tokens = 100'000'000;
  double validation_fraction = 0;
  int threads = 0;
  bool overwrite = false;
  bool from_stdin = false;
  bool special_tokens = false;
};

// Set by the handler; a signal can reach nothing else.
volatile std::sig_atomic_t stop_signal = 0;

// SIGINT and SIGTERM end the command in an orderly way while this object lives.
class StopOnSignal {
 public:
  StopOnSignal() {
    stop_signal = 0;
    struct sigaction action {};
    action.sa_handler = [](int number) { stop_signal = number; };
    action.sa_flags = SA_RESETHAND | SA_RESTART;  // a second signal kills
    sigaction(SIGINT, &action, &old_int_);
    sigaction(SIGTERM, &action, &old_term_);
  }
  ~StopOnSignal() {
    sigaction(SIGINT, &old_int_, nullptr);
    sigaction(SIGTERM, &old_term_, nullptr);
  }
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;

 private:
  struct sigaction old_int_ {
  }, old_term_{};
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
         "the tokenizer has no special token that is known to end documents: name one with {} "
         "TOKEN, "
         "or pass {} none",
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

Json report_json(const TokenizeOptions& options, const ShardBuildReport& report) {
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
              {"seconds", report.seconds},
              {"mb_per_s", static_cast<double>(report.text_bytes) / 1e6 / report.seconds}};
}

void print_report(const TokenizeOptions& options, const ShardBuildReport& report) {
  uint64_t num_tokens = 0;
  for (const auto& [name, split] : report.index.splits) {
    num_tokens += split.num_tokens;
    fmt::print("{:<10} {:>15} tokens  {:>11} documents  {:>4} shards\n", name,
               format_count(static_cast<long long>(split.num_tokens)),
               format_count(static_cast<long long>(split.num_documents)), split.shards.size());
  }
  const auto bytes = static_cast<double>(report.text_bytes);
  fmt::print(
      "{} of text, {:.2f} bytes a token, {} empty documents dropped; {:.1f} MB/s; wrote {}\n",
      format_bytes(bytes), bytes / static_cast<double>(num_tokens), report.dropped_documents,
      bytes / 1e6 / report.seconds, options.out);
}

// One array of ids per line of standard input, each line a JSON string.
int encode_lines(const TokenizeOptions& options, const Tokenizer& tokenizer) {
  std::string line;
  std::vector<int32_t> ids;
  for (uint64_t number = 1; std::getline(std::cin, line); ++number) {
    const std::string where = fmt::format("standard input: line {}", number);
    const Json value = parse_json(line, where);
    if (!value.is_string()) fail(ErrorCode::damaged, "{}: expected a JSON string", where);
    ids.clear();
    tokenizer.encode_append(value.get_ref<const std::string&>(),
                            {.add_special_tokens = options.special_tokens}, ids);
    fmt::print("[{}]\n", fmt::join(ids, ", "));
    std::fflush(stdout);  // whoever writes line by line waits for the answer
  }
  return 0;
}

int write_shards(const TokenizeOptions& options, const Tokenizer& tokenizer) {
  Console console(options.common.quiet);
  TextInputs inputs = find_text_inputs(options.inputs, options.format);
  if (!inputs.ignored.empty()) {
    console.line("passed over {} files whose names say no text format, such as {}",
                 inputs.ignored.size(), inputs.ignored.front());
  }
  const StopOnSignal guard;
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const ShardBuildReport report = build_shards(
      {.files = std::move(inputs.files),
       .read = {.field = options.field,
                .policy = parse_document_policy(options.documents, options.document_separator)},
       .out = options.out,
       .num_threads = options.threads > 0 ? options.threads : cores,
       .shard_tokens = options.shard_tokens,
       .validation_fraction = options.validation_fraction,
       .begin_of_document =
           document_token(tokenizer, "--begin-of-document", options.begin_of_document),
       .end_of_document = document_token(tokenizer, "--end-of-document", options.end_of_document),
       .overwrite = options.overwrite,
       .cancelled = [] { return stop_signal != 0; }},
      text_encoder(tokenizer), console);
  if (options.common.json) {
    print_json(report_json(options, report));
  } else {
    print_report(options, report);
  }
  return 0;
}

int run(const TokenizeOptions& options) {
  if (options.from_stdin) {
    if (!options.inputs.empty() || !options.out.empty()) {
      fail(ErrorCode::usage, "--stdin takes neither input files nor --out");
    }
    return encode_lines(options, Tokenizer::from_file(options.tokenizer));
  }
  if (options.inputs.empty())
    fail(ErrorCode::usage, "no input: name files, folders or globs, or --stdin");
  if (options.out.empty())
    fail(ErrorCode::usage, "--out is missing: name the folder to write shards to");
  if (options.special_tokens) fail(ErrorCode::usage, "--special-tokens goes with --stdin only");
  check_shard_destination(options.out, options.overwrite);
  return write_shards(options, Tokenizer::from_file(options.tokenizer));
}

}  // namespace

void add_tokenize(CommandLine& line) {
  const auto options = std::make_shared<TokenizeOptions>();
  Command command = line.command("tokenize", "turn text into token shards");
  TokenizeOptions& o = *options;
  add_common_options(command, o.common);
  command.add("inputs", o.inputs,
              "files, folders or globs: txt, md, dict, jsonl, parquet; each also .gz or .zst");
  command.add("--tokenizer", o.tokenizer, "tokenizer.json, or a folder that holds one").required();
  command.add("--out", o.out, "folder of shards to write");
  command.add("--format", o.format, "text, jsonl or parquet, whatever the names say");
  command.add("--field", o.field, "field or column that holds the text");
  command.add("--documents", o.documents,
              "what a document of a text file is: file, lines, paragraphs or entries");
  command.add("--document-separator", o.document_separator,
              "cut text files at this string instead (\\n, \\t, \\xHH are understood)");
  command.add("--begin-of-document", o.begin_of_document,
              "token or id put before every document, or none");
  command.add("--end-of-document", o.end_of_document,
              "token or id put after every document, auto or none");
  command
      .add("--validation-fraction", o.validation_fraction,
           "share of documents, chosen by their hash, for the validation split")
      .between(0.0, 1.0);
  command.add("--shard-tokens", o.shard_tokens, "tokens per shard file")
      .between(int64_t{1}, int64_t{1} << 40);
  command.add("--threads", o.threads, "threads that encode; 0: one per core")
      .between(int64_t{0}, int64_t{1024});
  command.add("--overwrite", o.overwrite, "replace the shards that --out holds");
  command.add("--stdin", o.from_stdin,
              "read JSON strings, one a line, and print a JSON array of ids for each");
  command.add("--special-tokens", o.special_tokens,
              "with --stdin: add the tokenizer's own special tokens");
  command.runs([options] { return run(*options); });
}

}  // namespace osp
