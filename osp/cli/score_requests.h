// The JSON lines of `osp score` (docs/formats.md) as requests to a model, and its answers as JSON.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/eval/prompt_encoder.h"
#include "osp/eval/request_generator.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

struct ScoreModel {
  const ParameterStore& store;
  std::optional<Tokenizer> tokenizer;  // absent: token ids only
};

// Lines that are answered together.
class RequestBatch {
 public:
  // `where` names the source of the lines in messages.
  explicit RequestBatch(std::string where) : where_(std::move(where)) {}

  // Takes one line. Error(damaged) naming it and what is wrong, Error(usage) for a text without a
  // tokenizer.
  void add(const std::string& line, int64_t number, const ScoreModel& model);
  int64_t size() const { return static_cast<int64_t>(lines_.size()); }
  // One object per line, in order; the batch is empty afterwards.
  std::vector<Json> answer(const ScoreModel& model, const ScoreOptions& options);
  // The logits of a batch of one line, "logits_of", in fp32 [tokens, vocabulary] on the CPU.
  // Error(usage) for another batch.
  at::Tensor single_logits(const ScoreModel& model, const ScoreOptions& options) const;

 private:
  // The requests of a line: first … first + count − 1 to score, or request `first` to generate
  // or to give the logits of.
  enum class Kind { score, generate, logits };
  struct Line {
    Kind kind = Kind::score;
    size_t first = 0, count = 1;
  };
  void add_generation(const Json& object, const std::string& at, const ScoreModel& model);
  void add_logits(const Json& object, const std::string& at, const ScoreModel& model);

  std::string where_;
  std::vector<Line> lines_;
  std::vector<ChoiceRequest> choices_;
  std::vector<GenerationRequest> generations_;
  std::vector<std::vector<int32_t>> logits_;
};

}  // namespace osp
