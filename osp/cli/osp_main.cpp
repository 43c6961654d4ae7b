#include "osp/cli/osp_main.h"

#include <c10/util/Exception.h>
#include <malloc.h>

#include <csignal>
#include <exception>
#include <string>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/memory.h"
#include "osp/base/version.h"
#include "osp/cli/command.h"
#include "osp/ops/isa.h"

namespace osp {
namespace {

constexpr const char* kDescription =
    "osp: train language models that survive 4-bit quantization, show why they do, and measure "
    "it.\n"
    "Exit status: 0 done, 2 wrong usage, 3 damaged or unsupported input, 4 diverged, 5 disk, I/O\n"
    "or memory, 75 interrupted and resumable.";

constexpr void (*kCommands[])(CommandLine&) = {
    add_tokenize, add_train, add_plan,   add_quantize, add_eval,   add_analyze, add_generate,
    add_score,    add_serve, add_export, add_average,  add_report, add_bench};

// A training step frees and allocates the same large blocks again and again: keep them instead of
// giving them back to the system, which costs a page fault for every 4 KiB.
void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
}

int run(int argc, char** argv) {
  open_standard_streams();
  keep_freed_memory();
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an I/O error, not a silent death
  std::signal(SIGXFSZ, SIG_IGN);  // and so is a write beyond the limit of a file's size
  apply_isa_environment();
  CommandLine line(kDescription, kVersion);
  for (const auto add : kCommands) add(line);
  const int status = line.run(argc, argv);
  flush_stdout();
  return status;
}

int report_error(const char* message, int status) noexcept {
  write_stderr("error: ");
  write_stderr(message);
  write_stderr("\n");
  return status;
}

// Frees nothing and allocates little: what failed was a large block.
int report_out_of_memory() noexcept {
  try {
    const std::string text = out_of_memory_text() + "; use a smaller model or batch";
    return report_error(text.c_str(), exit_status(ErrorCode::memory));
  } catch (const std::exception&) {
    return report_error("out of memory", exit_status(ErrorCode::memory));
  }
}

// The text of an error, without the addresses that the tensor library adds to its own.
const char* text_of(const std::exception& error) {
  const auto* of_library = dynamic_cast<const c10::Error*>(&error);
  return of_library == nullptr ? error.what() : of_library->what_without_backtrace();
}

}  // namespace

int osp_main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    return report_error(error.what(), exit_status(error.code()));
  } catch (const std::exception& error) {
    if (is_out_of_memory(error)) return report_out_of_memory();
    return report_error(text_of(error), 1);
  }
}

}  // namespace osp
