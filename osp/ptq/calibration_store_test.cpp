#include "osp/ptq/calibration_store.h"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "osp/base/error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

TEST(CalibrationStore, GivesBackWhatWasPutInMemoryAndOnDisk) {
  const TestFolder folder;
  const at::Tensor x = at::arange(5 * 3 * 4, at::kFloat).view({5, 3, 4});
  for (const int64_t limit : {int64_t{1} << 20, int64_t{10}}) {
    ActivationSpace space{limit, folder.path()};
    CalibrationStore store(5, 3, 4, at::kFloat, space);
    EXPECT_EQ(store.on_disk(), limit == 10);
    EXPECT_EQ(space.memory_bytes, limit == 10 ? limit : limit - 240);
    store.put(0, x.narrow(0, 0, 2));
    store.put(2, x.narrow(0, 2, 3));
    EXPECT_TRUE(store.get(0, 5).equal(x));
    EXPECT_TRUE(store.get(3, 1).equal(x.narrow(0, 3, 1)));
    store.put(3, x.narrow(0, 0, 1));
    EXPECT_TRUE(store.get(3, 1).equal(x.narrow(0, 0, 1)));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(CalibrationStore, KeepsSixteenBitNumbersAsTheyAre) {
  const TestFolder folder;
  const at::Tensor x = at::arange(24, at::kFloat).div(7).view({2, 3, 4}).to(at::kBFloat16);
  ActivationSpace space{0, folder.path()};
  CalibrationStore store(2, 3, 4, at::kBFloat16, space);
  store.put(0, x);
  EXPECT_TRUE(store.get(0, 2).equal(x));
}

TEST(CalibrationStore, AFolderThatIsNotThereIsAnIoError) {
  try {
    ActivationSpace space{0, "/nowhere/at/all"};
    CalibrationStore(1, 1, 1, at::kFloat, space);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::io);
  }
}

}  // namespace
}  // namespace osp
