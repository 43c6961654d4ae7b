// The executable `osp`.
#include "osp/cli/osp_main.h"

int main(int argc, char** argv) { return osp::osp_main(argc, argv); }
