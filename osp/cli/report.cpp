// osp report: run folders and results to one self-contained page, a table and summary.json; or,
// with
// --watch, the page of runs that go on, served on this machine.
#include <cstdio>
#include <memory>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/provenance.h"
#include "osp/base/version.h"
#include "osp/cli/command.h"
#include "osp/report/inputs.h"
#include "osp/report/live_page.h"
#include "osp/report/page.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

struct ReportOptions {
  CommonOptions common;
  std::vector<std::string> runs;
  std::string out;
  std::string summary;
  std::string title;
  std::vector<std::string> labels;
  bool watch = false;
  int port = 0;
};

// The call that makes the page again, printed at its end.
std::string command_line(const ReportOptions& options) {
  std::string command = "osp report";
  for (const std::string& run : options.runs) command += " " + shell_word(run);
  if (options.watch) command += " --watch";
  if (!options.out.empty()) command += " --out " + shell_word(options.out);
  if (!options.summary.empty()) command += " --summary " + shell_word(options.summary);
  if (!options.title.empty()) command += " --title " + shell_word(options.title);
  for (const std::string& label : options.labels) command += " --label " + shell_word(label);
  return command;
}

int watch(const ReportOptions& options, const PageOptions& page) {
  Console console(options.common.quiet);
  serve_live_page({.inputs = options.runs,
                   .labels = options.labels,
                   .port = options.port,
                   .page = page,
                   .serving =
                       [&](const std::string& url) {
                         if (options.common.json) {
                           print_json({{"url", url}});
                         } else {
                           fmt::print("{}\n", url);
                         }
                         std::fflush(stdout);
                         console.line("report: watching; Ctrl-C ends it");
                       },
                   .unreadable =
                       [&](const std::string& problem) {
                         console.line("report: the page stays as it was: {}", problem);
                       }},
                  read_file(plotly_path()));
  return 0;
}

int run_report(const ReportOptions& options) {
  PageOptions page_options{.command = command_line(options),
                           .machine = fmt::format("osp {} on {}", kVersion, machine_text())};
  if (!options.title.empty()) page_options.title = options.title;
  if (options.watch) return watch(options, page_options);
  if (options.out.empty()) {
    fail(ErrorCode::usage, "osp report: --out is missing; name the page to write, or give --watch");
  }
  Console console(options.common.quiet);
  const std::vector<RunData> runs = read_inputs(options.runs, options.labels);
  const std::string page = render_page(runs, page_options, read_file(plotly_path()));
  const Json summary = summary_json(runs);
  if (!options.summary.empty()) write_file_atomic(options.summary, summary.dump(2) + "\n");
  write_file_atomic(options.out, page);
  for (const RunData& run : runs) {
    for (const std::string& note : run.missing) console.line("{}: {}", run.path, note);
  }
  console.line("report: {} ({})", options.out, format_bytes(static_cast<double>(page.size())));
  if (options.common.json) {
    print_json(summary);
  } else {
    fmt::print("{}", to_markdown(summary_table(runs)));
  }
  return 0;
}

}  // namespace

void add_report(CommandLine& line) {
  const auto options = std::make_shared<ReportOptions>();
  Command command =
      line.command("report", "run folders and results to one self-contained HTML page and a table");
  command
      .add("RUN", options->runs, "run folders, and JSON results of osp eval, analyze and quantize")
      .required();
  command.add("--out", options->out, "the page to write; needed without --watch");
  command.add("--summary", options->summary, "also write the table's numbers as JSON here");
  command.add("--title", options->title, "heading of the page");
  command.add("--label", options->labels,
              "NAME=TEXT: how to call the run in folder NAME (may be repeated)");
  command.add("--watch", options->watch,
              "serve the page on 127.0.0.1 and refresh it while the runs go on, until Ctrl-C");
  command.add("--port", options->port, "of the server; 0 takes a free one")
      .between(int64_t{0}, int64_t{65535});
  add_common_options(command, options->common);
  command.runs([options] { return run_report(*options); });
}

}  // namespace osp
