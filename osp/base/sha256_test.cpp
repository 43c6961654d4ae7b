// Known answers from FIPS 180-2, appendix B, and its empty message.
#include "osp/base/sha256.h"

#include <gtest/gtest.h>

#include <atomic>

#include "osp/base/interrupt.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

constexpr char kMillionA[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

TEST(Sha256, PublishedVectors) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(Sha256, PiecesOfAnySizeHashLikeTheWhole) {
  const std::string text(1'000'000, 'a');
  Sha256 hash;
  size_t done = 0;
  for (size_t piece = 1; done < text.size(); piece = piece * 3 + 1) {
    const size_t n = std::min(piece, text.size() - done);
    hash.update(text.data() + done, n);
    done += n;
  }
  EXPECT_EQ(hash.hex(), kMillionA);
}

TEST(Sha256, FileHashesLikeItsBytes) {
  const TestFolder folder;
  write_file_atomic(folder / "a", std::string(1'000'000, 'a'));
  EXPECT_EQ(sha256_file(folder / "a"), kMillionA);
}

TEST(Sha256, AbsentFileAndFolderAreIoErrors) {
  const TestFolder folder;
  for (const std::string& path : {folder / "absent", folder.path()}) {
    expect_error(ErrorCode::io, {path}, [&] { sha256_file(path); });
  }
}

// Hashing a model takes seconds.
TEST(Sha256, AStopIsHeardWhileAFileIsRead) {
  const TestFolder folder;
  write_file_atomic(folder / "a", std::string(1'000'000, 'a'));
  std::atomic<bool> flag = true;
  const StopFlag stop(flag);
  EXPECT_EQ(sha256_file(folder / "a"), kMillionA);  // a checkpoint is completed
  const StoppableFiles files;
  expect_error(ErrorCode::interrupted, {"while a file was read"},
               [&] { sha256_file(folder / "a"); });
}

}  // namespace
}  // namespace osp
