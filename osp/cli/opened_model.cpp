#include "osp/cli/opened_model.h"

#include <istream>
#include <utility>

#include "osp/base/error.h"
#include "osp/model/model_dir.h"
#include "osp/model/model_files.h"

namespace osp {
namespace {

// Largest number of lines answered together: bounds the memory of their texts.
constexpr int64_t kMostLines = 1 << 17;

std::unique_ptr<LoadedModel> checked_load(const std::string& dir, const OpenOptions& options,
                                          const CommonOptions& common) {
  check_engine_options(common, options.engine, is_quantized_model_dir(dir));
  auto loaded = load_model_at(dir, options.bits, options.engine);
  check_head_applies(common, *loaded);
  return loaded;
}

std::string found_dir(const std::string& path, const OpenOptions& options,
                      const CommonOptions& common) {
  check_bits(common, options.bits);
  return find_model_dir(path);
}

}  // namespace

OpenedModel::OpenedModel(const std::string& path, const OpenOptions& options,
                         const CommonOptions& common)
    : dir_(found_dir(path, options, common)),
      loaded_(checked_load(dir_, options, common)),
      model_{loaded_->model.store, {}} {
  if (Tokenizer::exists(dir_)) model_.tokenizer.emplace(Tokenizer::from_file(dir_));
  score_.tap = loaded_->tap.get();
  score_.batch_tokens = options.batch_tokens;
  score_.end_tokens = load_end_tokens(dir_);
}

Json OpenedModel::generate(const PromptOptions& prompt, const GenerateOptions& options,
                           const std::function<void(std::string_view)>& on_text) const {
  if (!model_.tokenizer) Tokenizer::from_file(dir_);  // says what is missing
  const PromptedModel model{dir_, *loaded_, *model_.tokenizer};
  const std::string text = prompt_text(model, prompt);
  return generation_json(model, text, continue_prompt(model, prompt, text, options, on_text));
}

void answer_lines(std::istream& lines, const std::string& where, const OpenedModel& model,
                  const std::function<void(const std::string&)>& emit,
                  const std::function<void()>& pause) {
  RequestBatch batch(where);
  const auto answer = [&] {
    for (const Json& result : batch.answer(model.scored(), model.score_options())) {
      emit(result.dump(-1, ' ', false, Json::error_handler_t::replace));
    }
    if (pause) pause();
  };
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") != std::string::npos) {
      batch.add(line, number, model.scored());
      if (batch.size() < kMostLines) continue;
    }
    answer();
  }
  if (lines.bad()) fail(ErrorCode::io, "{}: cannot be read", where);
  answer();
}

}  // namespace osp
