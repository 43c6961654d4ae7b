// osp report: run folders to one self-contained page, a table and summary.json.
#include <memory>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/cli/command.h"
#include "osp/report/inputs.h"
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
};

std::string quoted(const std::string& word) { return Json(word).dump(); }

// The call that makes the page again, printed at its end.
std::string command_line(const ReportOptions& options) {
  std::string command = "osp report";
  for (const std::string& run : options.runs) command += " " + quoted(run);
  command += " --out " + quoted(options.out);
  if (!options.summary.empty()) command += " --summary " + quoted(options.summary);
  if (!options.title.empty()) command += " --title " + quoted(options.title);
  for (const std::string& label : options.labels) command += " --label " + quoted(label);
  return command;
}

int run_report(const ReportOptions& options) {
  Console console(options.common.quiet);
  const std::vector<RunData> runs = read_inputs(options.runs, options.labels);
  PageOptions page_options{.command = command_line(options)};
  if (!options.title.empty()) page_options.title = options.title;
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
      line.command("report", "run folders to one self-contained HTML page and a table of results");
  command.add("RUN", options->runs, "run folders, as osp train leaves them").required();
  command.add("--out", options->out, "the page to write").required();
  command.add("--summary", options->summary, "also write the table's numbers as JSON here");
  command.add("--title", options->title, "heading of the page");
  command.add("--label", options->labels,
              "NAME=TEXT: how to call the run in folder NAME (may be repeated)");
  add_common_options(command, options->common);
  command.runs([options] { return run_report(*options); });
}

}  // namespace osp
