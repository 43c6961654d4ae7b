#include "osp/report/inputs.h"

#include <gtest/gtest.h>

#include "osp/base/error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

TEST(ReadInputs, EqualNamesAreToldApartByTheFolderAbove) {
  const TestFolder folder;
  for (const char* name : {"x/osp", "y/osp"}) {
    folder.write(std::string(name) + "/metrics.jsonl",
                 R"({"kind":"step","step":1,"tokens":100,"loss":null,"lr":0.003})"
                 "\n");
  }
  const std::vector<RunData> runs =
      read_inputs({folder / "x/osp", folder / "y/osp"}, {"x-osp=First"}).runs;
  EXPECT_EQ(runs[0].key, "x_osp");
  EXPECT_EQ(runs[0].label, "First");
  EXPECT_EQ(runs[1].label, "y-osp");
  EXPECT_THROW(read_inputs({folder / "x/osp", folder / "x/osp/"}, {}), Error);
  EXPECT_THROW(read_inputs({folder / "x/osp"}, {"other=Text"}), Error);
}

}  // namespace
}  // namespace osp
