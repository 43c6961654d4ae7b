// osp bench: speed beside other programs. Its parts are in bench_*.cpp.
#include "osp/cli/command.h"
#include "osp/cli/turn_options.h"

namespace osp {
namespace {

// The description of TurnOptions, whose defaults differ between the parts.
struct TurnFields {
  TurnOptions& options;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Timing");
    visit("steps", self.options.steps, Range{1, 100000},
          "number of timed steps per run, after one step that is not timed");
    visit("repetitions", self.options.repetitions, Range{1, 1000}, "number of runs of each side");
    visit("threads", self.options.threads, Range{0, 4096},
          "number of threads of both sides; 0 = the default of each");
    visit.group("Peer");
    visit("python", self.options.python, "Python interpreter that runs the peer",
          {.value = "FILE"});
    visit("peer", self.options.peer, "script of the peer that osp is compared with",
          {.value = "FILE"});
  }
};

}  // namespace

void add_bench(CommandLine& line) {
  Command command = line.command("bench", "compare the speed of osp with that of other programs");
  add_bench_train(command);
  add_bench_quantize(command);
  add_bench_eval(command);
  add_bench_optim(command);
}

void add_turn_options(Command& command, TurnOptions& options) {
  TurnFields fields{options};
  command.add_options(fields);
}

}  // namespace osp
