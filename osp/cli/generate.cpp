// osp generate: continues a prompt.
#include "osp/base/error.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/cli/prompt_options.h"
#include "osp/model/model_dir.h"

namespace osp {
namespace {

struct GenerateCommand {
  CommonOptions common;
  std::string model;
  PromptOptions prompt;
  std::string bits;
  GenerateOptions generate;
  EngineChoice engine = {.head = "8"};

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_model(visit, self.model);
    PromptOptions::fields(visit, self.prompt);
    visit_bits(visit, self.bits);
    GenerateOptions::fields(visit, self.generate);
    EngineChoice::fields(visit, self.engine);
    CommonOptions::fields(visit, self.common);
  }
};

// Writes a piece of text so that it is seen at once.
void stream_to_stdout(std::string_view piece) {
  write_stdout(piece);
  flush_stdout();
}

int run(const GenerateCommand& options) {
  // Report a mistake before anything is read.
  check_bits(options.common, options.bits);
  check_drawing(options.common, options.generate);
  const std::string dir = find_model_dir(options.model);
  check_engine_options(options.common, options.engine, is_quantized_model_dir(dir));
  const Tokenizer tokenizer = Tokenizer::from_file(dir);
  const auto loaded = load_model_at(dir, options.bits, options.engine);
  check_head_applies(options.common, *loaded);
  const PromptedModel model{dir, *loaded, tokenizer};
  const std::string text = prompt_text(model, options.prompt);
  if (options.common.json) {
    const Generation result = continue_prompt(model, options.prompt, text, options.generate);
    print_json(generation_json(model, text, result));
    return 0;
  }
  const Generation result =
      continue_prompt(model, options.prompt, text, options.generate, stream_to_stdout);
  stream_to_stdout("\n");
  Console(options.common.quiet)
      .line(
          "{} tokens in {:.2f} s, {:.1f} tokens/s after a prompt of {} in {:.2f} s; {}ended by "
          "{}{}",
          result.tokens.size(), result.seconds, tokens_per_second(result),
          result.prompt_tokens.size(), result.prompt_seconds,
          loaded->engine_note.empty() ? "" : loaded->engine_note + "; ", result.finish,
          result.dropped > 0 ? fmt::format("; the first {} tokens fell out of the context of {}",
                                           result.dropped, result.context)
                             : "");
  return 0;
}

}  // namespace

void add_generate(CommandLine& line) {
  line.command<GenerateCommand>("generate", "continue a prompt with a model", run);
}

}  // namespace osp
