// What is given to `osp report` — run folders, quantized model dirs, result files — as one list of
// models. Results of a run's model join that run; other models get an entry of their own.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "osp/report/run_data.h"

namespace osp {

// Reads everything, in the order given; equal names are told apart by the folder above. `labels`
// are NAME=TEXT with a model's name or key. Error(usage) for a label of no model, for a run given
// twice and for a path that is neither a file nor a folder of ours; Error(damaged) or
// Error(unsupported) naming the file for one that is broken or of another kind. `live`: see
// read_run.
std::vector<RunData> read_inputs(const std::vector<std::string>& paths,
                                 const std::vector<std::string>& labels, bool live = false);

// Adds results to what is known of a model: newer ones replace those of the same bits, or of the
// same method and bits.
void add_results(ModelResults results, RunData& run);

// Name, key and label of a model.
void set_name(const std::string& name, RunData& run);

// Absolute, without "." and ".." and without a slash at the end.
std::filesystem::path clean_path(const std::string& path);

}  // namespace osp
