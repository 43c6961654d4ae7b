#include "osp/data/text_reader_inputs.h"

#include <glob.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/data/object_store.h"

namespace osp {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::pair<std::string_view, Compression>, 3> kCompressions = {
    {{".gz", Compression::gzip}, {".dz", Compression::gzip}, {".zst", Compression::zstd}}};
constexpr std::array<std::pair<std::string_view, TextFormat>, 8> kFormats = {
    {{".txt", TextFormat::text},
     {".text", TextFormat::text},
     {".md", TextFormat::text},
     {".markdown", TextFormat::text},
     {".dict", TextFormat::text},
     {".jsonl", TextFormat::json_lines},
     {".ndjson", TextFormat::json_lines},
     {".parquet", TextFormat::parquet}}};

std::optional<TextFormat> forced_format(const std::string& name) {
  if (name.empty()) return std::nullopt;
  if (name == "text") return TextFormat::text;
  if (name == "jsonl") return TextFormat::json_lines;
  if (name == "parquet") return TextFormat::parquet;
  fail(ErrorCode::usage, "--format {}: expected text, jsonl or parquet", name);
}

// Takes `suffix` off the end of `name` if it is there.
bool strip_suffix(std::string& name, std::string_view suffix) {
  if (name.size() < suffix.size() || !name.ends_with(suffix)) return false;
  name.resize(name.size() - suffix.size());
  return true;
}

// Format and compression from a file's name; nothing if it has no known format and none is forced.
std::optional<TextInput> classify(const std::string& path, std::optional<TextFormat> forced) {
  std::string name = fs::path(uri_without_query(path)).filename().string();
  std::transform(name.begin(), name.end(), name.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  TextInput input{.path = path};
  for (const auto& [suffix, compression] : kCompressions) {
    if (!strip_suffix(name, suffix)) continue;
    input.compression = compression;
    break;
  }
  const auto found = std::find_if(kFormats.begin(), kFormats.end(),
                                  [&](const auto& entry) { return name.ends_with(entry.first); });
  if (!forced && found == kFormats.end()) return std::nullopt;
  input.format = forced ? *forced : found->second;
  return input;
}

std::vector<std::string> files_below(const std::string& folder) {
  std::vector<std::string> paths;
  for (auto entry = fs::recursive_directory_iterator(folder);
       entry != fs::recursive_directory_iterator(); ++entry) {
    if (entry->path().filename().string().starts_with(".")) {
      if (entry->is_directory()) entry.disable_recursion_pending();
    } else if (entry->is_symlink() && !entry->exists()) {
      fail(ErrorCode::io, "{}: the link leads nowhere; remove it or put its target back",
           entry->path().string());
    } else if (entry->is_regular_file()) {
      paths.push_back(entry->path().string());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

// Adds what one existing path stands for to the list, each file once.
class InputCollector {
 public:
  explicit InputCollector(std::optional<TextFormat> forced) : forced_(forced) {}

  void add_named(const std::string& path) {
    if (is_directory(path)) {
      for (const std::string& file : files_below(path)) {
        if (!add_file(file)) result_.ignored.push_back(file);
      }
      return;
    }
    if (!add_file(path)) fail_nameless(path);
  }
  // A file of an object store, or all below a prefix.
  void add_stored(const std::string& uri) {
    if (uri_without_query(uri).find_first_of("*[") != std::string::npos) {
      fail(ErrorCode::usage,
           "{}: patterns are for local files; name a file or a folder of the store", uri);
    }
    for (const StoredFile& file : ObjectStore(uri).list()) {
      const std::string path = join_uri(uri, file.name);
      if (("/" + file.name).find("/.") != std::string::npos) continue;
      if (add_file(path, file.num_bytes)) continue;
      if (file.name.empty()) fail_nameless(path);
      result_.ignored.push_back(path);
    }
  }
  TextInputs take() { return std::move(result_); }

 private:
  [[noreturn]] static void fail_nameless(const std::string& path) {
    fail(ErrorCode::usage,
         "{}: its name says no format (.txt, .md, .dict, .jsonl, .ndjson, .parquet, each also "
         "with "
         ".gz, .dz or .zst): pass --format text, jsonl or parquet",
         path);
  }
  bool add_file(const std::string& path) {
    std::optional<TextInput> input = classify(path, forced_);
    if (!input) return false;
    input->file_bytes = fs::file_size(path);
    add(*input, fs::canonical(path).string());
    return true;
  }
  bool add_file(const std::string& uri, uint64_t num_bytes) {
    std::optional<TextInput> input = classify(uri, forced_);
    if (!input) return false;
    input->file_bytes = num_bytes;
    add(*input, uri);
    return true;
  }
  void add(const TextInput& input, const std::string& identity) {
    if (seen_.insert(identity).second) result_.files.push_back(input);
  }

  std::optional<TextFormat> forced_;
  std::set<std::string> seen_;
  TextInputs result_;
};

void add_argument(const std::string& argument, InputCollector& collector) {
  if (is_store_uri(argument)) return collector.add_stored(argument);
  if (path_exists(argument)) return collector.add_named(argument);
  const std::vector<std::string> matches = sorted_glob(argument);
  if (matches.empty()) {
    fail(ErrorCode::usage, "{}: no such file or folder, and no file matches it", argument);
  }
  for (const std::string& match : matches) collector.add_named(match);
}

}  // namespace

std::vector<std::string> sorted_glob(const std::string& pattern) {
  glob_t matches{};
  std::vector<std::string> paths;
  if (glob(pattern.c_str(), 0, nullptr, &matches) == 0) {
    paths.assign(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
  }
  globfree(&matches);
  std::sort(paths.begin(), paths.end());
  return paths;
}

bool has_text_name(const std::string& path) { return classify(path, std::nullopt).has_value(); }

TextInputs find_text_inputs(const std::vector<std::string>& arguments, const std::string& format) {
  InputCollector collector(forced_format(format));
  try {
    for (const std::string& argument : arguments) add_argument(argument, collector);
  } catch (const fs::filesystem_error& error) {
    fail(ErrorCode::io, "{}", error.what());
  }
  TextInputs inputs = collector.take();
  if (inputs.files.empty()) {
    fail(
        ErrorCode::usage,
        "no text found: none of the inputs has a file whose name says a format (.txt, .md, .jsonl, "
        ".parquet, …)");
  }
  return inputs;
}

}  // namespace osp
