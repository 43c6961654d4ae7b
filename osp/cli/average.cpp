// osp average: the mean of the weights of several checkpoints, as a model of its own.
#include "osp/model/average.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/base/output.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/model/model_dir.h"
#include "osp/model/model_files.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {
namespace {

struct AverageCommand {
  CommonOptions common;
  std::vector<std::string> models;
  std::string out;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_models(visit, self.models);
    visit.group("Output");
    visit("out", self.out, "folder to create", {.value = "FOLDER", .required = true});
    CommonOptions::fields(visit, self.common);
  }
};

int run(const AverageCommand& options) {
  catch_signals();
  const StoppableFiles stoppable;
  const ReservedOutput place(options.out, OutputKind::new_folder);
  Console console(options.common.quiet);
  const ParameterStore mean = average_models(options.models);
  const std::string dir = find_model_dir(options.models.front());
  const std::string tokenizer = Tokenizer::exists(dir) ? Tokenizer::from_file(dir).json() : "";
  note_text_part(dir, console);
  if (tokenizer.empty()) console.warn("{} has no tokenizer: averaged without it", dir);
  write_folder_atomic(place.path(), [&](const std::string& temporary) {
    copy_model_files(dir, temporary, place.path());
    save_model_dir(mean, temporary, tokenizer, {.end_tokens = load_end_tokens(dir)});
  });
  console.line("wrote {}: the mean of {} models", options.out, options.models.size());
  if (options.common.json) {
    print_json(
        {{"models", options.models}, {"out", options.out}, {"parameters", mean.num_parameters()}});
  }
  return 0;
}

}  // namespace

void add_average(CommandLine& line) {
  line.command<AverageCommand>("average", "average the weights of several checkpoints of one run",
                               run);
}

}  // namespace osp
