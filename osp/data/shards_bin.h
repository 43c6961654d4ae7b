// The .bin token files of llm.c and modded-nanogpt, read as they are.
//
// 256 little-endian int32 of header (magic 20240520, version 1, number of tokens, zeros), then that
// many u16 ids. The files say neither the vocabulary nor the end-of-document token.
//
// Tested by osp/data/dataset_test.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace osp {

inline constexpr int32_t kBinMagic = 20240520;
inline constexpr size_t kBinHeaderBytes = 1024;

// Number of tokens of a whole .bin image; Error(damaged) or Error(unsupported) that begins with
// `where` if header and size do not agree.
uint64_t parse_bin_shard(std::span<const std::byte> bytes, const std::string& where);

// Files that `path` (one file, a folder, or a glob) stands for and that serve `split`, sorted by
// name. Where any name contains "train" or "val", those words choose; a file named by itself serves
// any split. Error(usage) if nothing is left.
std::vector<std::string> find_bin_shards(const std::string& path, const std::string& split);

}  // namespace osp
