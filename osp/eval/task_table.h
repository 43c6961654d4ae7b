// The table of benchmark tasks. A new task is one row in task_table.cpp, with the function that
// makes an item of a record.
#pragma once

#include <vector>

#include "osp/eval/task.h"

namespace osp {

// The eleven tasks, in the order of the paper's list.
const std::vector<TaskDescription>& benchmark_tasks();

}  // namespace osp
