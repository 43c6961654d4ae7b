// The executable `osp`.
#include <cstdlib>

#include "osp/cli/osp_main.h"

int main(int argc, char** argv) {
  // The plotting library of the environment that osp was built with. The program alone knows where
  // that lies: the same code inside a Python package asks its own environment.
  setenv("OSP_PLOTLY", OSP_PLOTLY_PATH, 0);
  return osp::osp_main(argc, argv);
}
