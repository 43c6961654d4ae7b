#include "osp/cli/eval_tasks.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/eval/results_table.h"
#include "osp/eval/task_results.h"
#include "osp/eval/task_samples.h"
#include "osp/model/model_dir.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/quant/fake_quant.h"

namespace osp {
namespace {

// A model, and the widths at which it is to run.
struct EvaluatedModel {
  std::string name, dir;
  std::vector<BitWidths> widths;
  bool quantized = false;
};

EvaluatedModel open_subject(const std::string& name, const EvalTasksArguments& arguments) {
  EvaluatedModel subject{name, find_model_dir(name), parse_bits_list(arguments.bits)};
  if (!Tokenizer::exists(subject.dir)) {
    fail(ErrorCode::usage,
         "{}: no tokenizer.json, which is needed to read the benchmarks; copy it there",
         subject.dir);
  }
  subject.quantized = is_quantized_model_dir(subject.dir);
  if (subject.quantized) {
    const BitWidths bits = QuantizedFolder(subject.dir).info().bits;
    // Among several widths its own is meant for it, the others for other models.
    if (arguments.bits_given &&
        std::find(subject.widths.begin(), subject.widths.end(), bits) == subject.widths.end()) {
      refuse_bits(arguments.bits, subject.dir, bits);
    }
    subject.widths = {bits};
  }
  return subject;
}

// Tokens that the run around a model dir has seen, 0 if it is not the model of a run.
int64_t tokens_of_run(const std::string& dir) {
  const std::filesystem::path run = std::filesystem::absolute(dir).lexically_normal().parent_path();
  const std::string log = (run / "metrics.jsonl").string();
  if (!path_exists(log)) return 0;
  const std::string text = read_file(log);
  const std::string_view lines = std::string_view(text).substr(0, text.find_last_of('\n') + 1);
  int64_t tokens = 0;
  for (size_t begin = 0; begin < lines.size();) {
    const size_t end = lines.find('\n', begin);
    const Json line = Json::parse(lines.substr(begin, end - begin), nullptr, false);
    if (line.is_object() && line.contains("tokens") && line["tokens"].is_number_integer()) {
      tokens = std::max(tokens, line["tokens"].get<int64_t>());
    }
    begin = end + 1;
  }
  return tokens;
}

class Bench {
 public:
  Bench(const EvalTasksArguments& arguments, TaskResults& results, Console& console)
      : results_(results), console_(console) {
    for (const TaskDescription* task : parse_tasks(arguments.tasks)) {
      prompts_.push_back(load_task_prompts(arguments.data, *task, parse_prompts(arguments.prompts),
                                           arguments.limit));
    }
    if (!arguments.samples.empty()) {
      samples_.emplace(arguments.samples, !arguments.resume.empty());
    }
  }

  void run(const EvaluatedModel& subject) {
    const Tokenizer tokenizer = Tokenizer::from_file(subject.dir);
    end_tokens_ = load_end_tokens(subject.dir);
    std::optional<QuantizedModel> quantized;
    std::optional<ParameterStore> plain;
    if (subject.quantized) {
      quantized = load_quantized_model_dir(subject.dir);
    } else {
      plain = load_model_dir(subject.dir);
    }
    const ParameterStore& store = quantized ? quantized->store : *plain;
    results_.add_model(subject.name, store.num_parameters(), tokens_of_run(subject.dir));
    for (const BitWidths& bits : subject.widths) {
      const std::unique_ptr<FakeQuantTap> tap =
          quantized ? quantized->make_tap() : std::make_unique<FakeQuantTap>(store, bits);
      for (const TaskPrompts& prompts : prompts_) {
        run_task(subject.name, bits.text(), store, tokenizer, prompts, *tap);
      }
    }
  }

 private:
  void run_task(const std::string& model, const std::string& bits, const ParameterStore& store,
                const Tokenizer& tokenizer, const TaskPrompts& prompts, FakeQuantTap& tap) {
    if (results_.finished(model, bits, prompts)) {
      if (samples_) samples_->check_finished(model, bits, prompts);
      return;
    }
    TaskAnswers answers = results_.answers(model, bits, prompts);
    TaskRunOptions options;
    options.tap = &tap;
    options.end_tokens = end_tokens_;
    options.progress =
        progress_line(console_, fmt::format("{} {} {}", model, bits, prompts.task->name), "items",
                      static_cast<int64_t>(answers.items.size()));
    options.on_chunk = [&](const TaskAnswers& so_far) {
      // First the items: what is kept as answered has its lines.
      if (samples_) samples_->write(model, bits, prompts, so_far);
      results_.keep(model, bits, prompts, so_far);
    };
    answer_task(store, tokenizer, prompts, options, answers);
    console_.end_status();
    // Answers that were all kept by an earlier sitting come through no chunk.
    if (samples_) samples_->write(model, bits, prompts, answers);
    results_.finish(model, bits, prompts, answers);
  }

  std::vector<TaskPrompts> prompts_;
  std::optional<SampleFile> samples_;
  TaskResults& results_;
  Console& console_;
  std::vector<int64_t> end_tokens_;  // of the model that runs
};

void check_table(const std::string& table) {
  if (table.empty() || table.ends_with(".md") || table.ends_with(".csv")) return;
  fail(ErrorCode::usage, "--table {}: expected a name that ends in .md or .csv", table);
}

void write_table(const std::string& table, const Json& document) {
  if (table.empty()) return;
  write_file_atomic(table,
                    table.ends_with(".md") ? results_markdown(document) : results_csv(document));
}

void run_all(const EvalTasksArguments& arguments, TaskResults& results, const std::string& kept) {
  Console console(arguments.quiet);
  std::vector<EvaluatedModel> subjects;  // mistakes are told before the first model is read
  for (const std::string& model : arguments.models) {
    subjects.push_back(open_subject(model, arguments));
  }
  Bench bench(arguments, results, console);
  catch_signals();
  try {
    for (const EvaluatedModel& subject : subjects) bench.run(subject);
  } catch (const Error& error) {
    console.end_status();
    if (error.code() != ErrorCode::interrupted) throw;
    fail(ErrorCode::interrupted, "{}; {}", error.what(),
         kept.empty() ? "nothing is kept without --out"
                      : fmt::format("go on with --resume {}", kept));
  }
}

}  // namespace

int run_eval_tasks(const EvalTasksArguments& arguments) {
  check_table(arguments.table);
  const TaskResultsHeader header{arguments.data, arguments.prompts, arguments.limit};
  const bool resumes = !arguments.resume.empty();
  const std::string& kept = resumes ? arguments.resume : arguments.out;
  TaskResults results = resumes ? TaskResults::resume(header, kept) : TaskResults(header, kept);
  run_all(arguments, results, kept);
  write_table(arguments.table, results.json());
  if (arguments.json) {
    print_json(results.json());
    return 0;
  }
  fmt::print("{}", results_text(results.json()));
  if (arguments.models.size() > 1 || !arguments.table.empty()) {
    fmt::print("\n{}", results_markdown(results.json()));
  }
  return 0;
}

}  // namespace osp
