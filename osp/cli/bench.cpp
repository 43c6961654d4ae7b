// osp bench: compares speed with other programs. Its parts are in bench_*.cpp.
#include "osp/cli/command.h"

namespace osp {

void add_bench(CommandLine& line) {
  Command command = line.command("bench", "compare the speed of osp with that of other programs");
  add_bench_train(command);
  add_bench_quantize(command);
  add_bench_eval(command);
  add_bench_optim(command);
  add_bench_run(command);
  add_bench_ranks(command);
}

}  // namespace osp
