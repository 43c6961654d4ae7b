// The report: one HTML page that holds everything it shows, plotting library included, and loads
// nothing. It reads on a phone, in the dark, and without scripts (every chart has a table).
#pragma once

#include <string>
#include <vector>

#include "osp/report/run_data.h"

namespace osp {

// Pages stay below this; longer runs are thinned harder until they do.
inline constexpr size_t kMaxPageBytes = 10'000'000;

struct PageOptions {
  std::string title = "Report";
  std::string command = {};       // how this page was made, printed at its end
  std::string machine = {};       // where
  std::string live_version = {};  // not "": the page asks its server for changes since this version
};

// The file of the plotting library: $OSP_PLOTLY, else the one found when osp was built. Error(io)
// that says what to do if it is not there.
std::string plotly_path();

// The page. `plotly` is the library's source. Text from runs is escaped; a content security policy
// lets only the page's own two scripts run (by their hashes) and forbids every request.
std::string render_page(const std::vector<RunData>& runs, const PageOptions& options,
                        const std::string& plotly);

}  // namespace osp
