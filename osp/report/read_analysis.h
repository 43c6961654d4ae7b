// The JSON of `osp analyze`, and what the readers of results share.
#pragma once

#include <string>
#include <vector>

#include "osp/report/results.h"

namespace osp {

ModelResults read_analysis(const Json& file, const std::string& where);

// What a file says about how it came to be: its plain values, but for the model and `shown`; the
// command that it holds, else `command`.
ModelResults::Source source_of(const Json& file, const std::vector<std::string>& shown,
                               const std::string& command);

// A string of the file as a word of a command, or `otherwise` where it has none.
std::string source_word(const Json& file, const char* key, const char* otherwise);

}  // namespace osp
