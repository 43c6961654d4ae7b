// The program: one command per file of this folder. Errors become one line on stderr and the
// documented exit status.
#include <malloc.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <new>

#include "osp/base/error.h"
#include "osp/base/version.h"
#include "osp/cli/command.h"
#include "osp/ops/isa.h"

namespace osp {
namespace {

constexpr const char* kDescription =
    "osp: train language models that survive 4-bit quantization, show why they do, and measure "
    "it.\n"
    "Exit status: 0 done, 2 wrong usage, 3 damaged or unsupported input, 4 diverged, 5 disk or "
    "I/O\n"
    "error, 75 interrupted and resumable.";

constexpr void (*kCommands[])(CommandLine&) = {add_tokenize, add_train,    add_quantize, add_eval,
                                               add_analyze,  add_generate, add_score,    add_export,
                                               add_average,  add_report,   add_bench};

// A training step frees and allocates the same large blocks again and again: keep them instead of
// giving them back to the system, which costs a page fault for every 4 KiB.
void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
}

int run(int argc, char** argv) {
  keep_freed_memory();
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an I/O error, not a silent death
  std::signal(SIGXFSZ, SIG_IGN);  // and so is a write beyond the limit of a file's size
  apply_isa_environment();
  CommandLine line(kDescription, kVersion);
  for (const auto add : kCommands) add(line);
  return line.run(argc, argv);
}

}  // namespace
}  // namespace osp

int main(int argc, char** argv) {
  try {
    return osp::run(argc, argv);
  } catch (const osp::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return osp::exit_status(error.code());
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "error: out of memory; use a smaller batch or model\n");
    return 5;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
