// main() of the test programs that use the tensor library.
#include <gtest/gtest.h>

#include "osp/ops/tensor_library.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  osp::prepare_tensor_library();
  osp::prepare_vector_functions();
  return RUN_ALL_TESTS();
}
