// The keys of result files as words for people: tasks, metrics, tensors.
//
// Tested by tests/python/test_report_items.py.
#pragma once

#include <string>

namespace osp {

// "arc_easy" is "ARC Easy", "acc_norm" "accuracy by characters", "mlp_input" "MLP input"; other
// keys get spaces for underscores.
std::string plain_name(const std::string& key);

}  // namespace osp
