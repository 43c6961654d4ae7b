// Speed of the tokenizer in MB/s beside the PyPI package `tokenizers` on the same text, with the
// same number of threads, measured in turn in one run; the ids must be equal.
//   tokenizer_microbench PYTHON THREADS TEXT TOKENIZER...
// TEXT is a .jsonl file with "text" fields or a text file (.dz, .gz or plain); each document, or
// each 16 KiB of lines of a text file, is one item of the batch. Run it from the repository's root.
#include <fmt/format.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/sha256.h"
#include "osp/base/timing.h"
#include "osp/tokenizer/json.h"
#include "osp/tokenizer/tokenizer.h"
#include "osp/tokenizer/utf8.h"

namespace {

using osp::tokenizer::SortedJson;

constexpr size_t kMaxTextBytes = 16 << 20;
constexpr size_t kPieceBytes = 16 << 10;
constexpr int kRepetitions = 3;

std::string read_text(const std::string& path) {
  gzFile file = gzopen(path.c_str(), "rb");  // reads plain files as they are
  if (file == nullptr) osp::fail(osp::ErrorCode::io, "{}: cannot be opened", path);
  std::string text(kMaxTextBytes, '\0');
  const int size = gzread(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  if (size < 0) osp::fail(osp::ErrorCode::io, "{}: cannot be read", path);
  text.resize(static_cast<size_t>(size));
  return text.substr(0, text.rfind('\n') + 1);
}

std::vector<std::string> read_items(const std::string& path) {
  const std::string text = read_text(path);
  const bool documents = path.ends_with(".jsonl");
  std::vector<std::string> items;
  for (size_t at = 0; at < text.size();) {
    const size_t from = documents ? at : std::min(at + kPieceBytes, text.size() - 1);
    const size_t end = text.find('\n', from) + 1;
    const std::string piece = text.substr(at, end - at);
    items.push_back(documents ? SortedJson::parse(piece).at("text").get<std::string>()
                              : osp::tokenizer::replace_invalid_utf8(piece));
    at = end;
  }
  return items;
}

void write_records(const std::vector<std::string>& items, const std::string& path) {
  std::string records;
  for (const std::string& item : items) {
    const auto size = static_cast<uint32_t>(item.size());
    records.append(reinterpret_cast<const char*>(&size), sizeof(size)).append(item);
  }
  osp::write_file_atomic(path, records);
}

// Encodes all items with `num_threads` threads; a thread that is done takes the next item.
std::vector<std::vector<int32_t>> encode_batch(const osp::Tokenizer& tokenizer,
                                               const std::vector<std::string>& items,
                                               int num_threads) {
  std::vector<std::vector<int32_t>> ids(items.size());
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < num_threads; ++i) {
    threads.emplace_back([&] {
      for (size_t at = next++; at < items.size(); at = next++)
        ids[at] = tokenizer.encode(items[at]);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ids;
}

SortedJson run_peer(const std::string& command) {
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) osp::fail(osp::ErrorCode::io, "cannot run: {}", command);
  std::string output;
  char buffer[4096];
  while (const size_t size = std::fread(buffer, 1, sizeof(buffer), pipe))
    output.append(buffer, size);
  if (pclose(pipe) != 0) osp::fail(osp::ErrorCode::io, "failed: {}", command);
  return SortedJson::parse(output);
}

void measure(const std::string& python, int num_threads, const std::vector<std::string>& items,
             const std::string& records, const std::string& path) {
  const osp::Tokenizer tokenizer = osp::Tokenizer::from_file(path);
  size_t num_bytes = 0;
  for (const std::string& item : items) num_bytes += item.size();
  // The rate of osp, median of the repetitions, and a hash of all ids.
  std::vector<double> rates;
  std::vector<std::vector<int32_t>> ids;
  for (int i = 0; i < kRepetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    ids = encode_batch(tokenizer, items, num_threads);
    const double seconds = osp::seconds_since(start);
    rates.push_back(static_cast<double>(num_bytes) / seconds / 1e6);
  }
  std::nth_element(rates.begin(), rates.begin() + kRepetitions / 2, rates.end());
  const double rate = rates[kRepetitions / 2];
  osp::Sha256 hash;
  size_t num_tokens = 0;
  for (const auto& item : ids) {
    hash.update(item.data(), item.size() * sizeof(int32_t));
    num_tokens += item.size();
  }
  // The peer's, in a process of its own.
  const std::string file = osp::is_directory(path) ? path + "/tokenizer.json" : path;
  const SortedJson peer =
      run_peer(fmt::format("RAYON_NUM_THREADS={} TOKENIZERS_PARALLELISM=true '{}' "
                           "bench/peers/tokenizers_encode.py '{}' '{}' {}",
                           num_threads, python, file, records, kRepetitions));
  const double peer_rate = peer.at("mb_per_s").get<double>();
  fmt::print(
      "{}: {:.1f} MB, {} threads: {:.1f} MB/s; tokenizers {}: {:.1f} MB/s; ratio {:.1f}; {} ids, "
      "{}\n",
      path, static_cast<double>(num_bytes) / 1e6, num_threads, rate,
      peer.at("version").get<std::string>(), peer_rate, rate / peer_rate, num_tokens,
      peer.at("sha256") == hash.hex() ? "equal" : "DIFFERENT");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    fmt::print(stderr, "usage: tokenizer_microbench PYTHON THREADS TEXT TOKENIZER...\n");
    return 2;
  }
  try {
    const std::vector<std::string> items = read_items(argv[3]);
    const std::string records = fmt::format("/tmp/osp-tokenizer-bench-{}", ::getpid());
    write_records(items, records);
    for (int i = 4; i < argc; ++i) measure(argv[1], std::atoi(argv[2]), items, records, argv[i]);
    osp::remove_tree(records);
    return 0;
  } catch (const osp::Error& e) {
    fmt::print(stderr, "{}\n", e.what());
    return osp::exit_status(e.code());
  }
}
