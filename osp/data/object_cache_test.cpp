// The cache of files from object stores: what is believed, what is removed, and who fetches.
#include "osp/data/object_cache.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "osp/base/sha256.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

using namespace std::chrono_literals;

struct Cache : ::testing::Test {
  TestFolder folder;
  std::atomic<int> fetched = 0;

  ObjectCache of(uint64_t max_bytes) const {
    return ObjectCache({.folder = folder / "cache", .max_bytes = max_bytes});
  }
  static CacheEntry entry_of(const std::string& content) {
    return {.sha256 = sha256_hex(content), .num_bytes = content.size()};
  }
  std::unique_ptr<CachedFile> get(const ObjectCache& cache, const std::string& content) {
    return cache.get(entry_of(content), "s3://b/" + content.substr(0, 1),
                     [&](const ObjectCache::Sink& sink) {
                       ++fetched;
                       const size_t half = content.size() / 2;
                       sink(content.data(), half);
                       sink(content.data() + half, content.size() - half);
                     });
  }
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder / "cache")) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }
};

std::string text_of(const CachedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST_F(Cache, AFileIsFetchedOnceAndThenFound) {
  const ObjectCache cache = of(100);
  const auto first = get(cache, "hello");
  EXPECT_EQ(text_of(*first), "hello");
  EXPECT_TRUE(first->is_fresh());
  const auto second = get(of(100), "hello");  // another process would see the same
  EXPECT_FALSE(second->is_fresh());
  EXPECT_EQ(second->inode(), first->inode());
  EXPECT_EQ(fetched, 1);
  EXPECT_TRUE(cache.has(Cache::entry_of("hello")));
  EXPECT_FALSE(cache.has(Cache::entry_of("other")));
  EXPECT_EQ(text_of(*get(cache, "")), "");
}

TEST_F(Cache, TheLeastRecentlyUsedGoesFirstAndWhatIsInUseStays) {
  const ObjectCache cache = of(10);
  const std::string a(4, 'a'), b(4, 'b'), c(4, 'c'), d(4, 'd');
  get(cache, a);
  std::this_thread::sleep_for(20ms);  // longer than the clock that files are marked with ticks
  get(cache, b);
  std::this_thread::sleep_for(20ms);
  get(cache, a);  // b is now the one that nobody has used for longest
  get(cache, c);
  EXPECT_TRUE(cache.has(entry_of(a)));
  EXPECT_FALSE(cache.has(entry_of(b)));
  std::this_thread::sleep_for(20ms);
  const auto held = get(cache, a);
  std::this_thread::sleep_for(20ms);
  get(cache, c);
  get(cache, d);  // a is older than c, but in use
  EXPECT_TRUE(cache.has(entry_of(a)));
  EXPECT_FALSE(cache.has(entry_of(c)));
  // With all in use there is no room, and nothing is left behind.
  const auto also_held = get(cache, d);
  expect_error(ErrorCode::usage, {"s3://b/b", "in use", kCacheSizeVariable},
               [&] { get(cache, b); });
  expect_error(ErrorCode::usage, {"do not fit", kCacheSizeVariable},
               [&] { get(cache, std::string(11, 'x')); });
  EXPECT_EQ(files().size(), 3u);  // two copies and the lock
}

TEST_F(Cache, WhatAnInterruptedProcessLeftIsWrittenOverOrRemoved) {
  const ObjectCache cache = of(10);
  const std::string a(6, 'a'), b(6, 'b');
  const CacheEntry entry = entry_of(a);
  folder.write("cache/" + entry.sha256 + ".part", "torn");
  EXPECT_EQ(text_of(*get(cache, a)), a);
  folder.write("cache/" + entry.sha256 + ".part", "torn again");
  EXPECT_EQ(text_of(*get(cache, b)), b);  // takes the room of both
  EXPECT_EQ(files().size(), 2u);
  EXPECT_FALSE(cache.has(entry));
}

TEST_F(Cache, AFileOfAnotherSizeIsNotBelieved) {
  const ObjectCache cache = of(100);
  folder.write("cache/" + entry_of("hello").sha256, "hell");
  EXPECT_FALSE(cache.has(entry_of("hello")));
  EXPECT_EQ(text_of(*get(cache, "hello")), "hello");
}

TEST_F(Cache, OtherContentIsFetchedTwiceAndThenRefused) {
  const ObjectCache cache = of(100);
  for (const std::string wrong : {"hellO", "hell", "hello!"}) {
    int calls = 0;
    expect_error(ErrorCode::damaged, {"s3://b/x", "SHA-256", "put it there again"}, [&] {
      cache.get(entry_of("hello"), "s3://b/x", [&](const ObjectCache::Sink& sink) {
        ++calls;
        sink(wrong.data(), wrong.size());
      });
    });
    EXPECT_EQ(calls, 2);
    EXPECT_FALSE(cache.has(entry_of("hello")));
  }
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(Cache, AFailureOfTheFetchLeavesNothing) {
  const ObjectCache cache = of(100);
  expect_error(ErrorCode::io, {"the network"}, [&] {
    cache.get(entry_of("hello"), "s3://b/x", [&](const ObjectCache::Sink& sink) {
      sink("hel", 3);
      fail(ErrorCode::io, "the network");
    });
  });
  EXPECT_EQ(files().size(), 1u);
  EXPECT_EQ(text_of(*get(cache, "hello")), "hello");
}

TEST_F(Cache, ManyWhoNeedAFileFetchItOnce) {
  const std::string content(100'000, 'z');
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const ObjectCache cache = of(1'000'000);
      const auto file = cache.get(entry_of(content), "x", [&](const ObjectCache::Sink& sink) {
        ++fetched;
        std::this_thread::sleep_for(50ms);
        sink(content.data(), content.size());
      });
      EXPECT_EQ(text_of(*file), content);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(fetched, 1);
}

TEST_F(Cache, ManyInASmallCacheAllGetWhatTheyNeedAndTheLimitHolds) {
  std::vector<std::thread> threads;
  std::atomic<bool> done = false;
  uint64_t largest = 0;
  std::thread watcher([&] {
    while (!done) {
      // As who takes room does: with the lock, so that what is listed was there at one time.
      uint64_t sum = 0;
      std::error_code error;
      const int lock = ::open((folder / "cache/room.lock").c_str(), O_RDWR | O_CREAT, 0644);
      if (lock < 0 || ::flock(lock, LOCK_EX) != 0) continue;  // the cache is not made yet
      for (const auto& entry : std::filesystem::directory_iterator(folder / "cache", error)) {
        const uint64_t size = entry.file_size(error);
        if (!error) sum += size;
      }
      ::close(lock);
      largest = std::max(largest, sum);
      std::this_thread::sleep_for(1ms);  // the others want the lock, too
    }
  });
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      const ObjectCache cache = of(50'000);  // of 10 files of 10,000 bytes, at most 4 in use
      for (int round = 0; round < 100; ++round) {
        const std::string content(10'000, static_cast<char>('a' + (round * (i + 1)) % 10));
        EXPECT_EQ(text_of(*get(cache, content)), content);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  done = true;
  watcher.join();
  EXPECT_LE(largest, 50'000u);
  EXPECT_GT(fetched, 10);
}

TEST(CacheOptions, ComeFromTheEnvironment) {
  setenv(kCacheVariable, "/somewhere", 1);
  setenv(kCacheSizeVariable, "20GB", 1);
  EXPECT_EQ(cache_options().folder, "/somewhere");
  EXPECT_EQ(cache_options().max_bytes, 20'000'000'000u);
  setenv(kCacheSizeVariable, "some", 1);
  expect_error(ErrorCode::usage, {kCacheSizeVariable}, [] { cache_options(); });
  unsetenv(kCacheSizeVariable);
  unsetenv(kCacheVariable);
  setenv("XDG_CACHE_HOME", "/caches", 1);
  EXPECT_EQ(cache_options().folder, "/caches/osp");
  unsetenv("XDG_CACHE_HOME");
}

}  // namespace
}  // namespace osp
