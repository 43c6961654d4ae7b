// The document of benchmark results (task_results.h) as text, Markdown and CSV.
// Tested by tests/python/test_eval_tasks.py.
#pragma once

#include <string>

#include "osp/base/json.h"

namespace osp {

// All results for people, one line per task. A score from truncated prompts is followed by "*",
// here and in the Markdown table, as is an average that contains it; a note below says what was
// cut.
std::string results_text(const Json& document);
// The paper's table, one row per model: parameters, tokens, every task at the first of its widths,
// the average at each width; in per cent, "–" for a missing number. In CSV the last column names
// the tasks with truncated prompts, "5 of gsm8k at 16-16-16".
std::string results_markdown(const Json& document);
std::string results_csv(const Json& document);

}  // namespace osp
