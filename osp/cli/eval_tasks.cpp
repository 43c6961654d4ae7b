// The part of `osp eval` that runs benchmarks.

#include <algorithm>
#include <deque>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/base/output.h"
#include "osp/cli/eval_command.h"
#include "osp/cli/held_memory.h"
#include "osp/cli/loaded_model.h"
#include "osp/eval/results_table.h"
#include "osp/eval/task_results.h"
#include "osp/eval/task_samples.h"
#include "osp/model/model_dir.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/quant/fake_quant.h"

namespace osp {
namespace {

// A model and the widths to run it at.
struct EvaluatedModel {
  std::string name, dir;
  std::vector<BitWidths> widths;
  bool quantized = false;
};

EvaluatedModel open_subject(const std::string& name, const EvalCommand& options) {
  EvaluatedModel subject{name, find_model_dir(name), options.widths()};
  if (!Tokenizer::exists(subject.dir)) {
    fail(ErrorCode::usage,
         "{}: no tokenizer.json, which is needed to read the benchmarks; copy it there",
         subject.dir);
  }
  subject.quantized = is_quantized_model_dir(subject.dir);
  if (subject.quantized) {
    const BitWidths bits = load_quantized_config(subject.dir).info.bits;
    // Among several widths its own is meant for it, the others for other models.
    if (!options.bits.empty() &&
        std::find(subject.widths.begin(), subject.widths.end(), bits) == subject.widths.end()) {
      refuse_bits(options.bits, subject.dir, bits);
    }
    subject.widths = {bits};
  }
  return subject;
}

// Refuses widths that no model runs at, because all are quantized to others, and options of the
// engine without a quantized model.
void check_subjects(const std::vector<EvaluatedModel>& subjects, const EvalCommand& options) {
  const bool quantized = std::any_of(subjects.begin(), subjects.end(),
                                     [](const EvaluatedModel& each) { return each.quantized; });
  check_engine_options(options.common, options.engine, quantized);
  for (const BitWidths& bits : options.widths()) {
    const bool used =
        std::any_of(subjects.begin(), subjects.end(), [&](const EvaluatedModel& each) {
          return std::find(each.widths.begin(), each.widths.end(), bits) != each.widths.end();
        });
    if (!used && !options.bits.empty()) {
      refuse_bits(options.bits, subjects.front().dir, subjects.front().widths.front());
    }
  }
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

// Runs every task on one model after another.
class TaskRunner {
 public:
  TaskRunner(const EvalCommand& options, TaskResults& results, Console& console)
      : options_(options), results_(results), console_(console) {
    for (const TaskDescription* task : parse_tasks(options.tasks)) {
      prompts_.push_back(
          load_task_prompts(options.data, *task, parse_prompts(options.prompts), options.limit));
    }
    if (!options.save_items.empty()) {
      samples_.emplace(options.save_items, !options.resume.empty());
    }
  }

  void run(const EvaluatedModel& subject) {
    const Tokenizer tokenizer = Tokenizer::from_file(subject.dir);
    end_tokens_ = load_end_tokens(subject.dir);
    std::unique_ptr<LoadedModel> loaded;
    std::optional<ParameterStore> plain;
    if (subject.quantized) {
      loaded = load_model_at(subject.dir, "", options_.engine);
      check_head_applies(options_.common, *loaded);
      use_precision(options_.precision, *loaded);
      console_.line("{}: {}", subject.name, loaded->engine_note);
    } else {
      plain = load_model_dir(subject.dir);
      set_compute_type(*plain, options_.precision == "bf16");
    }
    const ParameterStore& store = loaded ? loaded->model.store : *plain;
    const std::string before = rounded_before(subject.dir);
    note_rounded_before(subject.name, before, console_);
    results_.add_model(subject.name, count_parameters(store.config), tokens_of_run(subject.dir),
                       before);
    for (const BitWidths& bits : subject.widths) {
      const auto emulation = loaded ? nullptr : std::make_unique<FakeQuantTap>(store, bits);
      Tap& tap = loaded ? *loaded->tap : *emulation;
      for (const TaskPrompts& prompts : prompts_) {
        run_task(subject.name, bits.text(), store, tokenizer, prompts, tap);
      }
    }
  }

 private:
  void run_task(const std::string& model, const std::string& bits, const ParameterStore& store,
                const Tokenizer& tokenizer, const TaskPrompts& prompts, Tap& tap) {
    if (results_.finished(model, bits, prompts)) {
      if (samples_) samples_->check_finished(model, bits, prompts);
      return;
    }
    TaskAnswers answers = results_.answers(model, bits, prompts);
    TaskRunOptions run_options;
    run_options.tap = &tap;
    run_options.end_tokens = end_tokens_;
    run_options.progress =
        progress_line(console_, fmt::format("{} {} {}", model, bits, prompts.task->name), "items",
                      static_cast<int64_t>(answers.items.size()));
    run_options.on_chunk = [&](const TaskAnswers& so_far) {
      // First the items: what is kept as answered has its lines.
      if (samples_) samples_->write(model, bits, prompts, so_far);
      results_.keep(model, bits, prompts, so_far);
    };
    answer_task(store, tokenizer, prompts, run_options, answers);
    console_.end_status();
    // Answers that were all kept by an earlier sitting come through no chunk.
    if (samples_) samples_->write(model, bits, prompts, answers);
    results_.finish(model, bits, prompts, answers);
  }

  const EvalCommand& options_;
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

void run_all(const EvalCommand& options, TaskResults& results, const std::string& kept) {
  Console console(options.common.quiet);
  std::vector<EvaluatedModel> subjects;  // report mistakes before the first model is read
  for (const std::string& model : options.models) {
    subjects.push_back(open_subject(model, options));
  }
  check_subjects(subjects, options);
  for (const EvaluatedModel& subject : subjects) {
    const double bytes = evaluation_bytes({.dir = subject.dir,
                                           .widths = subject.widths,
                                           .bf16 = options.precision == "bf16",
                                           .simulated = options.engine.engine == "simulated"});
    check_held_memory(bytes, "evaluating " + subject.name, "", console);
  }
  TaskRunner runner(options, results, console);
  catch_signals();
  try {
    for (const EvaluatedModel& subject : subjects) runner.run(subject);
  } catch (const Error& error) {
    console.end_status();
    if (error.code() != ErrorCode::interrupted) throw;
    fail(ErrorCode::interrupted, "{}; {}", error.what(),
         kept.empty() ? "without --out no results are kept"
                      : fmt::format("continue with --resume {}", kept));
  }
}

}  // namespace

int run_eval_tasks(const EvalCommand& options) {
  check_table(options.table);
  const TaskResultsHeader header{options.data, options.prompts, options.limit, options.precision};
  const bool resumes = !options.resume.empty();
  const std::string& kept = resumes ? options.resume : options.out;
  // Hold every name that will be written.
  check_distinct_outputs({{"--out", options.out},
                          {"--resume", options.resume},
                          {"--table", options.table},
                          {"--save-items", options.save_items}});
  std::deque<ReservedOutput> places;
  for (const auto& [option, path] :
       std::initializer_list<std::pair<const char*, const std::string&>>{
           {resumes ? "--resume" : "--out", kept},
           {"--table", options.table},
           {"--save-items", options.save_items}}) {
    if (!path.empty()) places.emplace_back(path, OutputKind::file, option);
  }
  TaskResults results = resumes ? TaskResults::resume(header, kept) : TaskResults(header, kept);
  run_all(options, results, kept);
  write_table(options.table, results.json());
  print_result(
      options.common, [&] { return results.json(); },
      [&] {
        print_out("{}", results_text(results.json()));
        if (options.models.size() > 1 || !options.table.empty()) {
          print_out("\n{}", results_markdown(results.json()));
        }
      });
  return 0;
}

}  // namespace osp
