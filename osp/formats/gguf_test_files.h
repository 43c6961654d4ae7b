// For tests only: GGUF files put together byte by byte, right or wrong.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace osp::gguf_test {

template <class Number>
std::string raw(Number value) {
  std::string bytes(sizeof(value), '\0');
  std::memcpy(bytes.data(), &value, sizeof(value));
  return bytes;
}
inline std::string u32(uint32_t value) { return raw(value); }
inline std::string u64(uint64_t value) { return raw(value); }
inline std::string text(std::string_view value) { return u64(value.size()) + std::string(value); }

// A metadata entry from its key, the number of its type and the value's bytes.
inline std::string entry(std::string_view key, uint32_t type, std::string_view value) {
  return text(key) + u32(type) + std::string(value);
}
inline std::string string_entry(std::string_view key, std::string_view value) {
  return entry(key, 8, text(value));
}
inline std::string u32_entry(std::string_view key, uint32_t value) {
  return entry(key, 4, u32(value));
}
inline std::string array_entry(std::string_view key, uint32_t type, uint64_t count,
                               std::string_view elements) {
  return entry(key, 9, u32(type) + u64(count) + std::string(elements));
}

// A tensor's description, dimensions fastest first.
inline std::string tensor(std::string_view name, const std::vector<uint64_t>& dimensions,
                          uint32_t type, uint64_t offset) {
  std::string bytes = text(name) + u32(static_cast<uint32_t>(dimensions.size()));
  for (const uint64_t dimension : dimensions) bytes += u64(dimension);
  return bytes + u32(type) + u64(offset);
}

inline std::string header(uint32_t version, uint64_t num_tensors, uint64_t num_entries) {
  return "GGUF" + u32(version) + u64(num_tensors) + u64(num_entries);
}

// A whole file: counts as they are, padding to `alignment` before the data.
inline std::string file(const std::vector<std::string>& entries,
                        const std::vector<std::string>& tensors, std::string_view data,
                        uint64_t alignment = 32) {
  std::string bytes = header(3, tensors.size(), entries.size());
  for (const std::string& part : entries) bytes += part;
  for (const std::string& part : tensors) bytes += part;
  if (!tensors.empty()) bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
  return bytes + std::string(data);
}

}  // namespace osp::gguf_test
