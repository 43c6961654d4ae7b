// The program as a function: one command per file of this folder. The executable (main.cpp) and the
// Python module osp._engine (python_module.cpp) call it, so both do the same.
#pragma once

#include <exception>
#include <string>

namespace osp {

// An exception as people are told of it: one sentence, and the exit status of the program.
struct Failure {
  std::string sentence;
  int status = 1;
};
Failure failure_of(const std::exception& error);

// Runs the command that the words name and returns the documented exit status; errors become one
// line on stderr. To be called once in a process: commands catch its signals for good.
int osp_main(int argc, char** argv);

}  // namespace osp
