// For tests/python/test_safetensors_differential.py. Two uses:
//   safetensors_probe read BATCH          BATCH holds many files, each after its length (8 bytes,
//   little
//                                         endian); prints one JSON line a file: what the reader
//                                         says.
//   safetensors_probe write JSON OUTPUT   writes a file from {"metadata": {...}, "tensors":
//                                         [{"name", "dtype", "shape", "hex"}]}.
#include <fmt/format.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/formats/safetensors.h"

namespace osp {
namespace {

std::string to_hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte b : bytes) text += fmt::format("{:02x}", static_cast<unsigned>(b));
  return text;
}

Json outcome_of(std::string_view file) {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;
  try {
    parse_safetensors(std::as_bytes(std::span(file)), "file", tensors, metadata);
  } catch (const Error& error) {
    return {{"error", error.what()}};
  }
  Json contents = Json::object();
  for (const auto& [name, tensor] : tensors) {
    contents[name] = {tensor.dtype, tensor.shape, to_hex(tensor.data)};
  }
  return {{"tensors", contents}, {"metadata", metadata}};
}

void read_batch(const std::string& path) {
  const std::string batch = read_file(path);
  size_t at = 0;
  while (at < batch.size()) {
    uint64_t length = 0;
    OSP_CHECK(batch.size() - at >= 8, "no length at {}", at);
    std::memcpy(&length, batch.data() + at, 8);
    at += 8;
    OSP_CHECK(length <= batch.size() - at, "file of {} bytes at {}", length, at);
    fmt::print("{}\n", outcome_of(std::string_view(batch).substr(at, length)).dump());
    at += length;
  }
}

void write_one(const std::string& description, const std::string& output) {
  const Json json = read_json_file(description);
  std::vector<std::string> data;
  for (const Json& tensor : json.at("tensors")) {
    const std::string hex = tensor.at("hex");
    std::string bytes;
    for (size_t i = 0; i < hex.size(); i += 2) {
      bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    data.push_back(bytes);
  }
  std::vector<TensorEntry> entries;
  for (const Json& tensor : json.at("tensors")) {
    entries.push_back({tensor.at("name"), tensor.at("dtype"), tensor.at("shape"),
                       std::as_bytes(std::span(data[entries.size()]))});
  }
  write_safetensors(output, entries, json.at("metadata"));
}

}  // namespace
}  // namespace osp

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.size() == 2 && args[0] == "read") {
    osp::read_batch(args[1]);
  } else if (args.size() == 3 && args[0] == "write") {
    osp::write_one(args[1], args[2]);
  } else {
    fmt::print(stderr, "usage: safetensors_probe read BATCH | write JSON OUTPUT\n");
    return 2;
  }
  return 0;
}
