// osp bench: its parts are in bench_*.cpp.
#include "osp/cli/command.h"
#include "osp/cli/turn_options.h"

namespace osp {

void add_bench(CommandLine& line) {
  Command command = line.command("bench", "speed beside a named peer, in turn");
  add_bench_train(command);
  add_bench_quantize(command);
  add_bench_eval(command);
  add_bench_optim(command);
}

void add_turn_options(Command& command, TurnOptions& options) {
  command.add("--steps", options.steps, "timed steps of each run, after one that is not")
      .between(int64_t{1}, int64_t{100000});
  command.add("--repetitions", options.repetitions, "runs of each side")
      .between(int64_t{1}, int64_t{1000});
  command.add("--threads", options.threads, "threads of both sides; 0: the default")
      .between(int64_t{0}, int64_t{4096});
  command.add("--python", options.python, "interpreter of the peer");
  command.add("--peer", options.peer, "script of the peer");
}

}  // namespace osp
