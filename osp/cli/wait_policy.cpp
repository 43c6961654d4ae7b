// How OpenMP threads wait for each other. By default they spin, and where another program holds a
// core, each short parallel loop then costs a slice of its time: generating text got up to fifty
// times slower. The OpenMP library reads its settings before main(), so the program starts itself
// anew with them, before the libraries have begun their work (that costs a few milliseconds). What
// the user set stays.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <initializer_list>

namespace osp {
namespace {

char setting[] = "OMP_WAIT_POLICY=passive";

bool is_chosen(char** environment) {
  for (char** entry = environment; *entry != nullptr; ++entry) {
    for (const char* name : {"OMP_WAIT_POLICY=", "GOMP_SPINCOUNT="}) {
      if (strncmp(*entry, name, strlen(name)) == 0) return true;
    }
  }
  return false;
}

// Runs before the constructors of the libraries: only the C library's plain functions work.
void set_wait_policy(int /*argc*/, char** arguments, char** environment) {
  if (is_chosen(environment)) return;
  char program[4096];
  const ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
  if (length <= 0) return;
  program[length] = '\0';
  size_t count = 0;
  while (environment[count] != nullptr) ++count;
  char** changed = static_cast<char**>(alloca((count + 2) * sizeof(char*)));
  memcpy(changed, environment, count * sizeof(char*));
  changed[count] = setting;
  changed[count + 1] = nullptr;
  execve(program, arguments, changed);  // where that fails, the program goes on as it is
}

[[gnu::section(".preinit_array"),
  gnu::used]] void (*const before_libraries)(int, char**, char**) = set_wait_policy;

}  // namespace
}  // namespace osp
