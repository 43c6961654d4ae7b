// The inputs of `osp report`: run folders, quantized model dirs and result files as one list of
// models, and a race of two arms. Results of a run's model join that run; other models get an entry
// of their own.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "osp/report/race_charts.h"
#include "osp/report/run_data.h"

namespace osp {

struct ReportInputs {
  std::vector<RunData> runs = {};
  std::optional<Race> race = {};
};

// Reads all inputs in the given order. Equal names get the name of the folder above in front.
// `labels` are NAME=TEXT with a model's name or key. Error(usage) for a label of no model, for a
// run or a race given twice and for a path that is neither a file nor a folder of osp;
// Error(damaged) or Error(unsupported) naming the file for one that is broken or of another kind.
// `live`: see read_run.
ReportInputs read_inputs(const std::vector<std::string>& paths,
                         const std::vector<std::string>& labels, bool live = false);

}  // namespace osp
