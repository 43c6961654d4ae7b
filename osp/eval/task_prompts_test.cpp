#include "osp/eval/task_prompts.h"

#include <gtest/gtest.h>

#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

TEST(TaskPrompts, EmptyChoicesAndMissingFilesAreErrors) {
  const TestFolder folder;
  const auto load = [&] {
    load_task_prompts(folder / ".", *parse_tasks("piqa").front(), Prompts::reference, 0);
  };
  expect_error(ErrorCode::usage, {"validation", "piqa"}, load);
  folder.write("piqa/validation.jsonl",
               "\n"
               R"({"goal":"x","sol1":"a","sol2":" ","label":0})"
               "\n");
  expect_error(ErrorCode::damaged, {"validation.jsonl: line 2", "choice 2 is empty"}, load);
  folder.write("other/piqa/validation.jsonl", "{}\n");
  expect_error(ErrorCode::usage, {"more than once"}, load);
}

}  // namespace
}  // namespace osp
