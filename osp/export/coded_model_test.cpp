// What is exported of codes is in tests/python/test_export_codes.py; here: that the long loops over
// a model's tensors hear a signal.
#include "osp/export/coded_model.h"

#include <gtest/gtest.h>

#include <atomic>

#include "osp/base/interrupt.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"
#include "osp/export/gptq_export.h"
#include "osp/model/test_model.h"
#include "osp/ptq/quantize_block.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/ptq/test_model.h"

namespace osp {
namespace {

// A folder of 4-bit codes as `osp quantize` writes it; returns its path.
std::string write_quantized(const TestFolder& folder) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/2);
  QuantizedModelInfo info{.bits = {4, 16, 16}, .grid = {}, .method = "rtn", .profile = "best"};
  info.online.query_key_hadamard = false;
  QuantizedWeights weights;
  for (size_t i = 0; i < store.specs.size(); ++i) {
    if (store.specs[i].kind != ParameterKind::matrix) continue;
    weights[store.specs[i].name] =
        round_to_nearest(store.master(static_cast<int64_t>(i)), info.grid, store.specs[i].name);
  }
  save_quantized_model_dir(parts_of(store, weights, info, folder / "parts"), store.config, info, {},
                           folder.path(), folder / "q");
  return folder / "q";
}

// Tensors that are taken of a model when a stop is asked for during the first.
int64_t taken_before_stop(const CodedModel& model) {
  std::atomic<bool> flag = false;
  const StopFlag stop(flag);
  const StoppableFiles files;
  int64_t taken = 0;
  expect_error(ErrorCode::interrupted, {"while codes were packed"}, [&] {
    model.each([&](const CodedTensor&) {
      ++taken;
      flag = true;
    });
  });
  return taken;
}

TEST(CodedModel, AStopIsHeardBeforeTheNextTensorIsPacked) {
  const TestFolder folder;
  const std::string own = write_quantized(folder);
  EXPECT_EQ(taken_before_stop(*open_coded_model(own)), 1);
  export_gptq(own, folder / "gptq", "auto");
  EXPECT_EQ(taken_before_stop(*open_coded_model(folder / "gptq")), 1);
}

TEST(CodedModel, AStopIsHeardWhileCodesAreRead) {
  const TestFolder folder;
  const std::string own = write_quantized(folder);
  export_gptq(own, folder / "gptq", "auto");
  std::atomic<bool> flag = true;
  const StopFlag stop(flag);
  const StoppableFiles files;
  for (const std::string& path : {own, folder / "gptq"}) {
    expect_error(ErrorCode::interrupted, {"while weights were read"}, [&] {
      open_coded_model(path)->each([](const CodedTensor&) { ADD_FAILURE() << "a tensor came"; });
    });
  }
  expect_error(ErrorCode::interrupted, {"while weights were read"},
               [&] { load_quantized_model_dir(own); });
}

}  // namespace
}  // namespace osp
