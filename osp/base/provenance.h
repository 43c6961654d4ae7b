// The origin of a result: the call and the machine, recorded in it so that it can be reproduced.
#pragma once

#include <string>

#include "osp/base/json.h"

namespace osp {

// `word` as a shell takes it: unchanged, or in single quotes.
std::string shell_word(const std::string& word);

// The call of this process for a shell, the program by its name alone: "osp train mine.toml --out
// runs/mine". "" where the system does not tell.
std::string process_command();

// Processor, threads and system: "AMD EPYC, 2 threads, Linux 6.1.0".
std::string machine_text();

// The average number of programs that wanted a core in the last minute, as the system counts it.
double load_average();

// Adds "version" of the program, "command" and "machine" to a result.
void record_provenance(Json& result);

}  // namespace osp
