// Feeds arbitrary bytes to the readers of metrics.jsonl: that of `osp report`, for a finished and
// for a running training, and the one that decides how much of a log a resumed run continues.
#include <cstdint>
#include <string>

#include "fuzz/accepted.h"
#include "fuzz/json_mutator.h"
#include "fuzz/memory_file.h"
#include "osp/base/error.h"
#include "osp/report/run_data.h"
#include "osp/train/metrics_log.h"

namespace {

constexpr const char* kKeys[] = {"kind",
                                 "step",
                                 "loss",
                                 "lr",
                                 "gradient_norm",
                                 "update_norm",
                                 "all",
                                 "tokens_per_s",
                                 "seconds",
                                 "skipped",
                                 "skip_reason",
                                 "excess_kurtosis",
                                 "mean",
                                 "clipped_mean",
                                 "per_layer",
                                 "largest_activation",
                                 "value",
                                 "largest_attention_logit",
                                 "gains",
                                 "perplexity",
                                 "prompt",
                                 "text",
                                 "recipe",
                                 "start",
                                 "end",
                                 "validation",
                                 "sample",
                                 "extend",
                                 "peak_memory_bytes",
                                 "mfu",
                                 "data_share",
                                 "tokens",
                                 "steps",
                                 "quantized",
                                 "bits"};

}  // namespace

OSP_JSON_MUTATOR(kKeys)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string path = osp::fuzz::memory_file("metrics.jsonl", data, size);
  for (const bool live : {false, true}) {
    try {
      osp::read_run(osp::fuzz::memory_folder().path(), live);
      if (live) osp::fuzz::accepted(data, size);
    } catch (const osp::Error&) {
    }
  }
  for (const uint64_t expected : {uint64_t{0}, uint64_t{size / 2}, uint64_t{size}, UINT64_MAX}) {
    std::string warning;
    const uint64_t kept = osp::usable_metrics(path, expected, 4, warning);
    OSP_CHECK(kept <= size && (kept == 0 || data[kept - 1] == '\n'), "{} of {} bytes", kept, size);
    OSP_CHECK(warning.empty() == (kept == expected), "{}", warning);
  }
  return 0;
}
