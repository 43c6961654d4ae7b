// osp bench run: how fast a quantized model runs in integers (osp/bench/engine_speed.h).
#include "osp/bench/engine_speed.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/model/model_dir.h"
#include "osp/ops/result_origin.h"

namespace osp {
namespace {

struct BenchRunCommand {
  CommonOptions common;
  EngineBench bench;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    EngineBench::fields(visit, self.bench);
    CommonOptions::fields(visit, self.common);
  }
};

int run_bench_run(const BenchRunCommand& options) {
  const std::string random = "random:";
  const EngineOptions engine_options{.threads = options.bench.threads,
                                     .head_bits = std::stoll(options.bench.head)};
  const auto engine =
      options.bench.model.starts_with(random)
          ? std::make_unique<Engine>(
                random_runtime_model(options.bench.model.substr(random.size())), engine_options)
          : load_engine(find_model_dir(options.bench.model), engine_options);
  Console console(options.common.quiet);
  Json speed = measure_engine_speed(*engine, options.bench, console);
  record_timed_origin(speed);
  print_result(
      options.common, [&] { return speed; }, [&] { print_out("{}", engine_speed_table(speed)); });
  return 0;
}

}  // namespace

void add_bench_run(Command& bench) {
  bench.part<BenchRunCommand>("run", "time a quantized model on the integer engine", run_bench_run);
}

}  // namespace osp
