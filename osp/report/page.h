// The report: one self-contained HTML page, plotting library included, that loads nothing. It works
// on a phone, in dark mode, and without scripts (every chart has a table).
#pragma once

#include <string>
#include <vector>

#include "osp/report/inputs.h"

namespace osp {

// Size limit of a page; curves of long runs are thinned until the page fits.
inline constexpr size_t kMaxPageBytes = 10'000'000;

struct PageOptions {
  std::string title = {};         // "": what was trained
  std::string command = {};       // the command that made this page, printed at its end
  std::string machine = {};       // the machine that made it
  std::string live_version = {};  // not "": the page asks its server for changes since this version
};

// The file of the plotting library: $OSP_PLOTLY, which the program `osp` sets to that of the
// environment it was built with. Error(io) with instructions if there is no such file.
std::string plotly_path();

// Renders the page of runs, a race or both. `plotly` is the library's source. Text from runs is
// escaped; a content security policy lets only the page's own two scripts run (by their hashes) and
// forbids every request.
std::string render_page(const ReportInputs& inputs, const PageOptions& options,
                        const std::string& plotly);

}  // namespace osp
