// The words of a described field on the command line: its option name, the line about it in --help,
// and its value from text.
#pragma once

#include <string>

#include "osp/base/fields.h"

namespace osp {

// "calibration_type" → "--calibration-type"; a positional field keeps its name.
std::string option_name(const FieldRef& field);
std::string option_name(const std::string& field);

// Placeholder of the value: "N", "FILE".
std::string option_placeholder(const FieldRef& field);

// The sentence, then range or choices, default and unit in brackets: "tokens per window
// (at least 2; default 2048)".
std::string option_help(const FieldRef& field);

// The value of a field that is neither a flag nor a list as JSON; text that is no number where one
// is expected stays text, which FieldRef::assign refuses.
Json option_value(const FieldRef& field, const std::string& text);

}  // namespace osp
