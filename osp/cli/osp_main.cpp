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
#include "osp/ops/tensor_library.h"

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
  prepare_tensor_library();
  CommandLine line(kDescription, kVersion);
  for (const auto add : kCommands) add(line);
  const int status = line.run(argc, argv);
  flush_stdout();
  return status;
}

// The text of an error, without the addresses that the tensor library adds to its own.
const char* text_of(const std::exception& error) {
  const auto* of_library = dynamic_cast<const c10::Error*>(&error);
  return of_library == nullptr ? error.what() : of_library->what_without_backtrace();
}

void report_error(const char* message) noexcept {
  write_stderr("error: ");
  write_stderr(message);
  write_stderr("\n");
}

}  // namespace

Failure failure_of(const std::exception& error) {
  if (const auto* ours = dynamic_cast<const Error*>(&error)) {
    return {ours->what(), exit_status(ours->code())};
  }
  if (is_out_of_memory(error)) {
    return {out_of_memory_text() + "; use a smaller model or batch",
            exit_status(ErrorCode::memory)};
  }
  return {text_of(error), 1};
}

int osp_main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    try {
      const Failure failure = failure_of(error);
      report_error(failure.sentence.c_str());
      return failure.status;
    } catch (const std::exception&) {  // not even a sentence fits into memory
      report_error("out of memory");
      return exit_status(ErrorCode::memory);
    }
  }
}

}  // namespace osp
