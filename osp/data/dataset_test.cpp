#include "osp/data/dataset.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <numeric>

#include "osp/base/file.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"
#include "osp/data/batch.h"
#include "osp/data/shards_bin.h"
#include "osp/data/shards_writer.h"
#include "osp/data/test_shards.h"

namespace osp {
namespace {

std::vector<int64_t> all_tokens(const TokenDataset& data) {
  std::vector<int64_t> tokens(data.num_tokens());
  data.copy(0, tokens);
  return tokens;
}

// Writes a file and the folders above it.
std::string bin_bytes(const std::vector<uint16_t>& ids, int32_t magic = kBinMagic,
                      int32_t version = 1, int64_t claimed = -1) {
  std::vector<int32_t> header(256, 0);
  header[0] = magic;
  header[1] = version;
  header[2] = static_cast<int32_t>(claimed < 0 ? static_cast<int64_t>(ids.size()) : claimed);
  std::string bytes(reinterpret_cast<const char*>(header.data()), kBinHeaderBytes);
  return bytes.append(reinterpret_cast<const char*>(ids.data()), ids.size() * 2);
}

TEST(TokenDataset, TokensInMemoryAreReadLikeThoseOfFiles) {
  const std::vector<int64_t> ids = {3, 70000, 0, 5};
  const TokenDataset data = TokenDataset::from_memory(ids, 70001);
  EXPECT_EQ(all_tokens(data), ids);
  EXPECT_EQ(data.vocabulary(), 70001);
  EXPECT_EQ(data.end_of_document(), -1);
  EXPECT_EQ(data.tokenizer_json(), "");
  EXPECT_NE(data.fingerprint(), TokenDataset::from_memory({ids.data(), 3}, 70001).fingerprint());
  const BatchPlan plan{.context = 1, .sequences_per_step = 3};
  EXPECT_EQ(read_batch(data, plan, 0, 0, 3, false).tokens.size(), 3u);
  expect_error(ErrorCode::usage, {"token id 70000", "70000"},
               [&] { TokenDataset::from_memory(ids, 70000); });
  expect_error(ErrorCode::usage, {"no tokens"}, [] { TokenDataset::from_memory({}, 10); });
}

TEST(TokenDataset, ShardsAreOneStreamOfBothWidths) {
  TestFolder folder;
  for (const int64_t vocabulary : {int64_t{100}, int64_t{70000}}) {
    const std::string path = write_set(folder, std::to_string(vocabulary), vocabulary, 25, 7, 3);
    const TokenDataset data = TokenDataset::open(path, "train", true);
    EXPECT_EQ(data.num_tokens(), 25u);
    EXPECT_EQ(data.vocabulary(), vocabulary);
    EXPECT_EQ(data.end_of_document(), 3);
    EXPECT_EQ(data.tokenizer_json(), "{\"a\": 1}");
    std::vector<int64_t> expected(25);
    std::iota(expected.begin(), expected.end(), 0);
    EXPECT_EQ(all_tokens(data), expected);
    // Every begin and length, so every way to lie across the borders of the four shards.
    for (uint64_t begin = 0; begin <= 25; ++begin) {
      for (uint64_t count = 0; begin + count <= 25; ++count) {
        std::vector<int64_t> part(count);
        data.copy(begin, part);
        EXPECT_TRUE(std::equal(part.begin(), part.end(), expected.begin() + begin));
      }
    }
    EXPECT_EQ(TokenDataset::open(path, "validation").num_tokens(), 2u);
  }
}

TEST(TokenDataset, FingerprintTellsDataApartButNotFolders) {
  TestFolder folder;
  const auto fingerprint = [](const std::string& path, const char* split) {
    return TokenDataset::open(path, split).fingerprint();
  };
  const std::string a = write_set(folder, "a", 100, 25, 7), b = write_set(folder, "b", 100, 25, 7);
  const std::string c = write_set(folder, "c", 100, 26, 7);
  EXPECT_EQ(fingerprint(a, "train"), fingerprint(b, "train"));
  EXPECT_NE(fingerprint(a, "train"), fingerprint(c, "train"));
  EXPECT_NE(fingerprint(a, "train"), fingerprint(a, "validation"));
}

TEST(TokenDataset, DamagedFoldersAreRefusedByName) {
  struct Case {
    const char* name;
    std::function<void(const std::string&)> damage;
    std::vector<std::string> said;
  };
  const auto rewrite = [](const std::string& path,
                          const std::function<void(std::string&)>& change) {
    std::string bytes = read_file(path);
    change(bytes);
    write_file_atomic(path, bytes);
  };
  const Case cases[] = {
      {"shard missing",
       [](const std::string& f) { std::filesystem::remove(f + "/train-00001.u16"); },
       {"train-00001.u16", "missing"}},
      {"shard truncated",
       [](const std::string& f) { std::filesystem::resize_file(f + "/train-00001.u16", 13); },
       {"train-00001.u16", "13 bytes", "7 tokens", "truncated"}},
      {"shard empty",
       [](const std::string& f) { std::filesystem::resize_file(f + "/train-00000.u16", 0); },
       {"train-00000.u16", "truncated"}},
      {"bytes after the end",
       [](const std::string& f) { std::filesystem::resize_file(f + "/train-00003.u16", 10); },
       {"train-00003.u16", "after the last token"}},
      {"one bit flipped",
       [&](const std::string& f) {
         rewrite(f + "/train-00002.u16", [](std::string& bytes) { bytes[5] ^= 1; });
       },
       {"train-00002.u16", "SHA-256"}},
      {"index truncated",
       [&](const std::string& f) {
         rewrite(f + "/index.json", [](std::string& bytes) { bytes.resize(bytes.size() / 2); });
       },
       {"index.json"}},
      {"tokenizer changed",
       [&](const std::string& f) {
         rewrite(f + "/tokenizer.json", [](std::string& bytes) { bytes += " "; });
       },
       {"tokenizer.json", "SHA-256"}},
  };
  for (const Case& c : cases) {
    TestFolder folder;
    const std::string path = write_set(folder, "set", 100, 25, 7);
    c.damage(path);
    SCOPED_TRACE(c.name);
    expect_error(ErrorCode::damaged, c.said, [&] {
      std::vector<int64_t> ids(25);
      TokenDataset::open(path, "train").copy(0, ids);
    });
  }
}

TEST(TokenDataset, AShardIsCheckedBeforeItsFirstUseAndNoOther) {
  TestFolder folder;
  const std::string path = write_set(folder, "set", 100, 25, 7);
  std::string bytes = read_file(path + "/train-00001.u16");
  bytes[4] ^= 1;  // another id of the vocabulary
  write_file_atomic(path + "/train-00001.u16", bytes);
  const TokenDataset data = TokenDataset::open(path, "train");
  std::vector<int64_t> ids(7);
  data.copy(0, ids);
  data.copy(14, ids);
  for (int again = 0; again < 2; ++again) {
    expect_error(ErrorCode::damaged, {"train-00001.u16", "SHA-256"}, [&] { data.copy(1, ids); });
    expect_error(ErrorCode::damaged, {"train-00001.u16", "SHA-256"}, [&] { data.check_ids(100); });
  }
  const TokenDataset unchecked = TokenDataset::open(path, "train", false);
  unchecked.copy(1, ids);
  unchecked.check_ids(100);
}

TEST(TokenDataset, IdBeyondTheVocabularyIsNamedWithItsPlace) {
  TestFolder folder;
  for (const int64_t vocabulary : {int64_t{100}, int64_t{70000}}) {
    const std::string path = write_set(folder, std::to_string(vocabulary), vocabulary, 25, 7);
    const TokenDataset data = TokenDataset::open(path, "train");
    data.check_ids(25);
    expect_error(ErrorCode::damaged,
                 {"train-00002", "token 6", vocabulary == 100 ? "byte 12" : "byte 24", "20"},
                 [&] { data.check_ids(20); });
  }
}

TEST(TokenDataset, AnUnknownSplitNamesTheOnesThatExist) {
  TestFolder folder;
  const std::string path = write_set(folder, "set", 100, 25, 7);
  expect_error(ErrorCode::usage, {"test", "train, validation"},
               [&] { TokenDataset::open(path, "test"); });
}

TEST(TokenDataset, BinShardsAreReadAsTheyAre) {
  TestFolder folder;
  folder.write("bin/fineweb_train_000002.bin", bin_bytes({4, 5}));
  folder.write("bin/fineweb_train_000001.bin", bin_bytes({1, 2, 50256}));
  const std::string val = folder.write("bin/fineweb_val_000000.bin", bin_bytes({7, 8, 9}));
  folder.write("bin/README.md", "not a shard");
  using Ids = std::vector<int64_t>;
  for (const std::string& path : {folder / "bin", folder / "bin/*.bin"}) {
    EXPECT_EQ(all_tokens(TokenDataset::open(path, "train")), (Ids{1, 2, 50256, 4, 5})) << path;
    EXPECT_EQ(all_tokens(TokenDataset::open(path, "validation")), (Ids{7, 8, 9})) << path;
  }
  const TokenDataset data = TokenDataset::open(val, "train");  // named by itself: any split
  EXPECT_EQ(all_tokens(data), (Ids{7, 8, 9}));
  EXPECT_EQ(data.vocabulary(), 0);
  EXPECT_EQ(data.end_of_document(), -1);
  EXPECT_EQ(data.tokenizer_json(), "");
  expect_error(ErrorCode::usage, {"val"},
               [&] { TokenDataset::open(folder / "bin/*train*", "validation"); });
  expect_error(ErrorCode::usage, {"\"test\""}, [&] { TokenDataset::open(folder / "bin", "test"); });
  expect_error(ErrorCode::damaged, {"fineweb_train_000001.bin", "token 2", "byte 1028", "50256"},
               [&] { TokenDataset::open(folder / "bin", "train").check_ids(50256); });
}

TEST(TokenDataset, DamagedBinShardsAreRefused) {
  const std::string good = bin_bytes({1, 2, 3});
  struct Case {
    const char* name;
    std::string bytes;
    ErrorCode code;
    std::vector<std::string> said;
  };
  const Case cases[] = {
      {"empty", "", ErrorCode::damaged, {"x.bin", "0 bytes"}},
      {"cut header", good.substr(0, 1023), ErrorCode::damaged, {"x.bin", "1023"}},
      {"magic", bin_bytes({1}, 20240521), ErrorCode::damaged, {"x.bin", "magic"}},
      {"version", bin_bytes({1}, kBinMagic, 2), ErrorCode::unsupported, {"x.bin", "version 2"}},
      {"cut tokens",
       good.substr(0, good.size() - 2),
       ErrorCode::damaged,
       {"3 tokens", "room for 2"}},
      {"half a token", good.substr(0, good.size() - 1), ErrorCode::damaged, {"half"}},
      {"too many bytes", good + "xx", ErrorCode::damaged, {"3 tokens", "room for 4"}},
      {"count beyond 2^31",
       bin_bytes({1}, kBinMagic, 1, 0x80000000ll),
       ErrorCode::damaged,
       {"x.bin"}},
      {"no tokens", bin_bytes({}), ErrorCode::damaged, {"no tokens"}},
  };
  for (const Case& c : cases) {
    TestFolder folder;
    const std::string path = folder.write("x.bin", c.bytes);
    SCOPED_TRACE(c.name);
    expect_error(c.code, c.said, [&] { TokenDataset::open(path, "train"); });
  }
}

}  // namespace
}  // namespace osp
