// Quantities with units, as people type them: "32GiB", "100GB/s", "200Mbit/s",
// "275TFLOP/s", "1.5e12".
#pragma once

#include <string>

namespace osp {

// The number that `text` stands for, in `unit` ("B", "B/s" or "FLOP/s"). A prefix k, M, G, T or P
// counts in thousands, Ki, Mi, Gi, Ti or Pi in 1024s; the unit may be omitted; bits are eighths of
// bytes ("Mbit/s"). Error(usage) that names `option` unless the result is finite and above zero.
double parse_quantity(const std::string& text, const std::string& unit, const std::string& option);

}  // namespace osp
