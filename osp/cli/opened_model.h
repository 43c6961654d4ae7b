// A model that stays loaded and answers requests: what `osp score` runs, and what Python opens in
// its own process (osp._engine). Both answer the JSON lines of docs/formats.md by answer_lines().
//
// Tested by tests/python/test_score.py and tests/python/test_py_engine.py.
#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "osp/cli/loaded_model.h"
#include "osp/cli/prompt_options.h"
#include "osp/cli/score_requests.h"

namespace osp {

// How a model is opened.
struct OpenOptions {
  std::string bits;
  EngineChoice engine;
  int64_t batch_tokens = ScoreOptions().batch_tokens;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_bits(visit, self.bits);
    visit("batch_tokens", self.batch_tokens, Range{1, 1 << 24},
          "number of tokens per forward pass");
    EngineChoice::fields(visit, self.engine);
  }
};

class OpenedModel {
 public:
  // Reports a mistake in the options, of which common.given were typed, before anything is read.
  // Errors as load_model_at.
  OpenedModel(const std::string& path, const OpenOptions& options, const CommonOptions& common);

  const ScoreModel& scored() const { return model_; }
  const ScoreOptions& score_options() const { return score_; }
  const std::string& engine_note() const { return loaded_->engine_note; }
  void show_progress(std::function<void(int64_t, int64_t)> progress) {
    score_.progress = std::move(progress);
  }

  // The JSON that `osp generate --json` prints; `on_text` gets the text in pieces. Errors as the
  // command's.
  Json generate(const PromptOptions& prompt, const GenerateOptions& options,
                const std::function<void(std::string_view)>& on_text = {}) const;

 private:
  std::string dir_;
  std::unique_ptr<LoadedModel> loaded_;
  ScoreModel model_;
  ScoreOptions score_;
};

// Answers the requests of `lines`, which `where` names in messages, together: at each blank line,
// at the end, and when there are very many. `emit` gets a line of JSON for each; `pause` is called
// where answers should be seen now. Errors of RequestBatch and of what it runs.
void answer_lines(std::istream& lines, const std::string& where, const OpenedModel& model,
                  const std::function<void(const std::string&)>& emit,
                  const std::function<void()>& pause = {});

}  // namespace osp
