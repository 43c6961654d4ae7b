#include "osp/ptq/calibration.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/philox.h"
#include "osp/data/dataset.h"
#include "osp/data/document_text.h"
#include "osp/data/object_store.h"
#include "osp/ptq/python_random.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {
namespace {

// The most that is read of JSON lines and Parquet: 128 windows of 2048 tokens need a tenth of it.
constexpr size_t kMaxTextBytes = size_t{16} << 20;

std::vector<int64_t> read_shards(std::string source, const std::string& model_dir,
                                 std::string& warning) {
  const std::string index = "index.json";
  if (!is_store_uri(source) && source.ends_with(index))
    source = source.substr(0, source.size() - index.size()) + ".";
  const TokenDataset dataset = TokenDataset::open(source, "train");
  std::vector<int64_t> tokens = dataset.first_tokens(0);
  if (Tokenizer::exists(model_dir) && !dataset.tokenizer_json().empty() &&
      dataset.tokenizer_json() != Tokenizer::from_file(model_dir).json()) {
    warning = source +
              ": made with another tokenizer.json than the model's; its ids may mean other tokens";
  }
  return tokens;
}

std::vector<int64_t> encode_text(const std::string& source, const std::string& model_dir,
                                 const std::string& field) {
  if (!is_store_uri(source) && !path_exists(source)) {
    fail(ErrorCode::usage,
         "{}: no such file; --calibration takes token shards, or a file of text, JSON lines or "
         "Parquet",
         source);
  }
  if (!Tokenizer::exists(model_dir)) {
    fail(ErrorCode::usage,
         "{}: no tokenizer, which is needed to read the text {}; copy its tokenizer.json there or "
         "give token "
         "shards",
         model_dir, source);
  }
  const std::vector<int32_t> ids =
      Tokenizer::from_file(model_dir).encode(read_document_text(source, field, kMaxTextBytes));
  return {ids.begin(), ids.end()};
}

void check_ids(std::span<const int64_t> window, int64_t start, int64_t vocabulary,
               const std::string& source) {
  for (size_t i = 0; i < window.size(); ++i) {
    if (window[i] >= 0 && window[i] < vocabulary) continue;
    fail(ErrorCode::damaged,
         "{}: token {} is {}, the model's vocabulary has {}: the shards were made with another "
         "tokenizer",
         source, start + static_cast<int64_t>(i), window[i], vocabulary);
  }
}

}  // namespace

std::vector<int64_t> window_starts(int64_t num_tokens, int64_t length,
                                   const CalibrationOptions& options) {
  OSP_CHECK(num_tokens >= length, "{} tokens hold no window of {}", num_tokens, length);
  std::vector<int64_t> starts;
  PythonRandom python(options.seed);
  const RandomStream own(options.seed, "calibration");
  for (int64_t i = 0; i < options.windows; ++i) {
    if (options.reference_starts) {
      starts.push_back(python.randint(0, std::max<int64_t>(0, num_tokens - length - 1)));
    } else {
      starts.push_back(static_cast<int64_t>(
          own.below(static_cast<uint64_t>(i), static_cast<uint64_t>(num_tokens - length + 1))));
    }
  }
  return starts;
}

Calibration read_calibration(const std::string& source, const std::string& model_dir,
                             int64_t context, int64_t vocabulary,
                             const CalibrationOptions& options) {
  const int64_t length = std::min(options.length, context);
  std::string warning;
  const std::vector<int64_t> tokens = names_token_shards(source)
                                          ? read_shards(source, model_dir, warning)
                                          : encode_text(source, model_dir, options.text_field);
  const int64_t count = static_cast<int64_t>(tokens.size());
  if (count < length) {
    fail(ErrorCode::unsupported,
         "{}: {} tokens, {} fewer than one calibration window of {}; give a longer text or a "
         "smaller --length",
         source, count, length - count, length);
  }
  Calibration result{at::empty({options.windows, length}, at::kLong), count, source, warning};
  const std::vector<int64_t> starts = window_starts(count, length, options);
  for (int64_t i = 0; i < options.windows; ++i) {
    const auto window =
        std::span(tokens).subspan(static_cast<size_t>(starts[i]), static_cast<size_t>(length));
    check_ids(window, starts[i], vocabulary, source);
    std::copy(window.begin(), window.end(), result.windows_NT.data_ptr<int64_t>() + i * length);
  }
  return result;
}

}  // namespace osp
