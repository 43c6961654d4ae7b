// JSON as the project reads and writes it. Objects keep their order of insertion.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace osp {

using Json = nlohmann::ordered_json;

// Parses one JSON value strictly: no byte order mark, no comments, no duplicate keys, valid UTF-8
// and surrogate pairs, nesting at most `max_depth`, nothing but white space after the value.
// Throws Error(damaged) that begins with `where` (a file name) and says at which byte.
Json parse_json(std::string_view text, const std::string& where, int max_depth = 64);

// Reads and parses a file of at most `max_bytes`. Throws Error(io) or Error(damaged).
Json read_json_file(const std::string& path, size_t max_bytes = 256u << 20);

// True if value.get<int64_t>() is the number: an integer up to 2^63 − 1. Larger ones would wrap.
bool is_int64(const Json& value);

// Typed access with an error that names file and key: Error(damaged) if absent or of another type.
int64_t json_int(const Json& object, const std::string& key, const std::string& where);
double json_number(const Json& object, const std::string& key, const std::string& where);
bool json_bool(const Json& object, const std::string& key, const std::string& where);
std::string json_string(const Json& object, const std::string& key, const std::string& where);

}  // namespace osp
