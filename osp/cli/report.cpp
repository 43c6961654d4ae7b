// osp report: turns run folders and results into one self-contained page, a table and summary.json;
// with --watch it serves the page of unfinished runs on this machine.

#include <optional>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json_text.h"
#include "osp/base/output.h"
#include "osp/base/provenance.h"
#include "osp/base/version.h"
#include "osp/cli/command.h"
#include "osp/report/common_measurements.h"
#include "osp/report/inputs.h"
#include "osp/report/live_page.h"
#include "osp/report/page.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

struct ReportCommand {
  CommonOptions common;
  std::vector<std::string> runs;
  std::string out;
  std::string summary;
  std::string title;
  std::vector<std::string> labels;
  bool watch = false;
  int64_t port = 0;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("run", self.runs,
          "run folders, folders written by osp quantize, JSON results of osp eval, osp analyze and "
          "osp quantize, and a race of two arms (docs/formats.md)",
          {.positional = true, .required = true});
    visit.group("Output");
    visit("out", self.out, "HTML page to write; required without --watch", {.value = "FILE"});
    visit("summary", self.summary, "JSON file to write the numbers of the table to",
          {.value = "FILE"});
    visit.group("Page");
    visit("title", self.title, "heading of the page");
    visit("label", self.labels, "name shown for the run in folder NAME", {.value = "NAME=TEXT"});
    visit.group("Live page");
    visit("watch", self.watch,
          "serve the page on 127.0.0.1 and refresh it while runs continue, until Ctrl-C");
    visit("port", self.port, Range{0, 65535}, "port of the server of --watch; 0 = any free port",
          {.needs = "watch"});
    CommonOptions::fields(visit, self.common);
  }
};

// The command that makes the page again, printed at its end.
std::string command_line(const ReportCommand& options) {
  std::string command = "osp report";
  for (const std::string& run : options.runs) command += " " + shell_word(run);
  if (options.watch) command += " --watch";
  if (!options.out.empty()) command += " --out " + shell_word(options.out);
  if (!options.summary.empty()) command += " --summary " + shell_word(options.summary);
  if (!options.title.empty()) command += " --title " + shell_word(options.title);
  for (const std::string& label : options.labels) command += " --label " + shell_word(label);
  return command;
}

int watch(const ReportCommand& options, const PageOptions& page) {
  Console console(options.common.quiet);
  serve_live_page({.inputs = options.runs,
                   .labels = options.labels,
                   .port = static_cast<int>(options.port),
                   .page = page,
                   .serving =
                       [&](const std::string& url) {
                         print_result(
                             options.common,
                             [&] {
                               return Json{{"url", url}};
                             },
                             [&] { print_out("{}\n", url); });
                         flush_stdout();
                         console.line("report: watching; Ctrl-C ends it");
                       },
                   .unreadable =
                       [&](const std::string& problem) {
                         console.line("report: the page stays as it was: {}", problem);
                       }},
                  read_file(plotly_path()));
  return 0;
}

int run_report(const ReportCommand& options) {
  PageOptions page_options{.command = command_line(options),
                           .machine = fmt::format("osp {} on {}", kVersion, machine_text())};
  if (!options.title.empty()) page_options.title = options.title;
  if (options.watch) {
    refuse_given(options.common, {"out", "summary"}, "--watch serves the page and writes no file");
    return watch(options, page_options);
  }
  if (options.out.empty()) {
    fail(ErrorCode::usage, "osp report: --out is missing; name the page to write, or give --watch");
  }
  check_distinct_outputs({{"--out", options.out}, {"--summary", options.summary}});
  const ReservedOutput out(options.out, OutputKind::file);
  std::optional<ReservedOutput> summary_place;
  if (!options.summary.empty()) {
    summary_place.emplace(options.summary, OutputKind::file, "--summary");
  }
  Console console(options.common.quiet);
  const ReportInputs inputs = read_inputs(options.runs, options.labels);
  const std::vector<RunData>& runs = inputs.runs;
  const std::string page = render_page(inputs, page_options, read_file(plotly_path()));
  const Json summary = summary_json(runs);
  if (summary_place) write_file_atomic(summary_place->path(), json_text(summary, 2) + "\n");
  write_file_atomic(out.path(), page);
  for (const RunData& run : runs) {
    for (const std::string& note : run.missing) console.line("{}: {}", run.path, note);
  }
  console.line("report: {} ({})", options.out, format_bytes(static_cast<double>(page.size())));
  print_result(
      options.common, [&] { return summary; },
      [&] {
        if (runs.empty()) return print_out("{}\n", race_sentence(*inputs.race));
        print_out("{}", to_markdown(summary_table(runs)));
        for (const std::string& note : measurement_notes(runs)) print_out("\n{}\n", note);
      });
  return 0;
}

}  // namespace

void add_report(CommandLine& line) {
  line.command<ReportCommand>(
      "report", "turn run folders and results into one HTML page and a table", run_report);
}

}  // namespace osp
