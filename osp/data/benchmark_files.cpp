#include "osp/data/benchmark_files.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/printable.h"
#include "osp/data/benchmark_parquet.h"
#include "osp/data/text_reader_jsonl.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

namespace fs = std::filesystem;

constexpr int kDeepest = 6;  // folders below the root in the hub's cache

// "datasets--Rowan--hellaswag", "ARC-Easy" → "hellaswag", "arc_easy"
std::string folder_key(std::string name) {
  const size_t owner = name.rfind("--");
  if (owner != std::string::npos) name.erase(0, owner + 2);
  for (char& c : name) {
    if (c == '-') c = '_';
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return name;
}

bool known_extension(const std::string& extension) {
  return extension == ".jsonl" || extension == ".json" || extension == ".parquet" ||
         extension == ".csv";
}

bool is_of_split(const fs::path& file, const std::string& split) {
  if (!known_extension(file.extension().string())) return false;
  const std::string stem = file.stem().string();
  return stem == split || stem.starts_with(split + "-") || stem.ends_with("_" + split);
}

// All files below `folder`, sorted.
std::vector<fs::path> files_below(const std::string& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  fs::recursive_directory_iterator at(folder, fs::directory_options::skip_permission_denied, error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    if (at.depth() >= kDeepest) at.disable_recursion_pending();
    std::error_code broken_link;
    if (at->is_regular_file(broken_link)) files.push_back(at->path());
  }
  if (error) fail(ErrorCode::io, "{}: cannot list the folder: {}", folder, error.message());
  std::sort(files.begin(), files.end());
  return files;
}

// True if a folder on the way from `root` to the file has one of these names.
template <class IsName>
bool lies_in(const fs::path& file, const fs::path& root, const IsName& is_name) {
  const fs::path way = file.lexically_relative(root).parent_path();
  return std::any_of(way.begin(), way.end(),
                     [&](const fs::path& part) { return is_name(part.string()); });
}

std::vector<fs::path> of_benchmark(std::vector<fs::path> files, const std::string& root,
                                   const BenchmarkPlace& place) {
  const auto ours = [&](const std::string& name) {
    return std::find(place.folders.begin(), place.folders.end(), folder_key(name)) !=
           place.folders.end();
  };
  std::erase_if(files, [&](const fs::path& file) { return !lies_in(file, root, ours); });
  const auto in_config = [&](const fs::path& file) {
    return lies_in(file, root, [&](const std::string& name) { return name == place.config; });
  };
  if (std::any_of(files.begin(), files.end(), in_config))
    std::erase_if(files, std::not_fn(in_config));
  return files;
}

std::string joined(const std::vector<std::string>& words, const std::string& between) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : between) + word;
  return text;
}

// The characters of a CSV file with the line they are in.
class CsvReader {
 public:
  CsvReader(const std::string& path, std::string text) : path_(path), text_(std::move(text)) {}

  // The next row; false at the end.
  bool next(std::vector<std::string>& columns, int64_t& line) {
    columns.clear();
    while (at_ < text_.size() && (text_[at_] == '\n' || text_[at_] == '\r')) step();
    line = line_;
    if (at_ == text_.size()) return false;
    do {
      columns.push_back(text_[at_] == '"' ? quoted() : plain());
    } while (at_ < text_.size() && text_[at_] == ',' && (step(), true));
    return true;
  }

 private:
  void step() { line_ += text_[at_++] == '\n'; }

  std::string plain() {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != ',' && text_[at_] != '\n' && text_[at_] != '\r') {
      ++at_;
    }
    return text_.substr(begin, at_ - begin);
  }

  std::string quoted() {
    const int64_t opened = line_;
    std::string value;
    for (step(); at_ < text_.size(); step()) {
      if (text_[at_] == '"') {
        if (at_ + 1 == text_.size() || text_[at_ + 1] != '"') {
          step();
          return value + plain();
        }
        step();
      }
      value += text_[at_];
    }
    fail(ErrorCode::damaged, "{}: line {}: a quotation mark is not closed", path_, opened);
  }

  const std::string& path_;
  std::string text_;
  size_t at_ = 0;
  int64_t line_ = 1;
};

}  // namespace

std::vector<std::string> find_benchmark_files(const std::string& root, const BenchmarkPlace& place,
                                              const std::vector<std::string>& splits) {
  if (!is_directory(root)) {
    fail(ErrorCode::usage, "{}: no such folder; --data names the folder of the benchmarks", root);
  }
  const std::vector<fs::path> files = of_benchmark(files_below(root), root, place);
  for (const std::string& split : splits) {
    std::vector<std::string> found;
    std::set<std::string> kinds;  // folder and format
    for (const fs::path& file : files) {
      if (!is_of_split(file, split)) continue;
      found.push_back(file.string());
      kinds.insert((place.many_folders ? "" : file.parent_path().string() + "/") + split + "*" +
                   file.extension().string());
    }
    if (kinds.size() > 1) {
      fail(ErrorCode::usage, "{}: {} of {} is there more than once: {}; keep one of them", root,
           split, place.folders.front(), joined({kinds.begin(), kinds.end()}, ", "));
    }
    if (!found.empty()) return found;
  }
  fail(ErrorCode::usage,
       "{}: no file {} (.jsonl, .parquet or .csv) below a folder named {}; --data names the folder "
       "that holds the benchmarks",
       root, joined(splits, " or "), joined(place.folders, " or "));
}

void read_json_lines(const std::string& path, const std::vector<std::string>& fields,
                     const RecordSink& sink) {
  std::string text = read_file(path);
  bool wanted = true;
  LineSplitter lines(
      [&](std::string_view line, uint64_t number) {
        if (!wanted) return;
        BenchmarkRecord record{{}, path, static_cast<int64_t>(number)};
        record.fields = json_line_fields(line, fields, record.where());
        if (!record.fields.is_object()) {
          fail(ErrorCode::damaged, "{}: a JSON {}; every line must be an object", record.where(),
               record.fields.type_name());
        }
        wanted = sink(std::move(record));
      },
      path);
  lines.feed(text);
  lines.finish();
}

void read_csv(const std::string& path, const RecordSink& sink) {
  CsvReader reader(path, tokenizer::replace_invalid_utf8(read_file(path)));
  BenchmarkRecord record{{}, path};
  std::vector<std::string> columns;
  while (reader.next(columns, record.number)) {
    record.fields = Json{{"columns", columns}};
    if (!sink(record)) return;
  }
}

std::vector<BenchmarkRecord> read_benchmark_files(const std::vector<std::string>& files,
                                                  const std::vector<std::string>& fields,
                                                  int64_t limit) {
  std::vector<BenchmarkRecord> records;
  const auto full = [&] { return limit > 0 && static_cast<int64_t>(records.size()) >= limit; };
  const RecordSink sink = [&](BenchmarkRecord record) {
    records.push_back(std::move(record));
    return !full();
  };
  for (const std::string& file : files) {
    if (full()) break;
    const size_t before = records.size();
    if (file.ends_with(".parquet")) {
      read_parquet_records(file, fields, sink);
    } else if (file.ends_with(".csv")) {
      read_csv(file, sink);
    } else {
      read_json_lines(file, fields, sink);
    }
    if (records.size() == before) {
      fail(ErrorCode::damaged, "{}: no records; expected one item per line or row", file);
    }
  }
  return records;
}

}  // namespace osp
