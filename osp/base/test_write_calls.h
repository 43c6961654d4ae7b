// For tests only: runs a function in a child process and stops it at the k-th call with which it
// changes files. The child is killed there, or the call fails, once or from then on.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "osp/base/error.h"

#if defined(__x86_64__)

namespace osp {

enum class CallFault { none, kill, fail_once, fail_from_then_on };

// The end of the child, and the calls that it made.
struct TracedEnd {
  bool can_trace = true;  // false: ptrace is forbidden here
  bool killed = false;    // by the fault
  int status = -1;        // exit status if not killed: 0, 5 for Error(io), 99 for others
  int64_t calls = 0;      // calls that change files
  std::map<std::string, int64_t> names;  // of these calls, with how often each was made
};

// The name of a call that changes files, "" for any other.
inline std::string write_call_name(const user_regs_struct& entry) {
  const auto creates = [](uint64_t flags) { return (flags & O_CREAT) != 0; };
  switch (entry.orig_rax) {
    case SYS_open:
      return creates(entry.rsi) ? "open" : "";
    case SYS_openat:
      return creates(entry.rdx) ? "openat" : "";
    case SYS_write:
      return entry.rdi > 2 ? "write" : "";
    case SYS_writev:
      return entry.rdi > 2 ? "writev" : "";
    case SYS_creat:
      return "creat";
    case SYS_pwrite64:
      return "pwrite64";
    case SYS_pwritev:
      return "pwritev";
    case SYS_fsync:
      return "fsync";
    case SYS_fdatasync:
      return "fdatasync";
    case SYS_ftruncate:
      return "ftruncate";
    case SYS_truncate:
      return "truncate";
    case SYS_fallocate:
      return "fallocate";
    case SYS_copy_file_range:
      return "copy_file_range";
    case SYS_sendfile:
      return "sendfile";
    case SYS_rename:
      return "rename";
    case SYS_renameat:
      return "renameat";
    case SYS_renameat2:
      return "renameat2";
    case SYS_mkdir:
      return "mkdir";
    case SYS_mkdirat:
      return "mkdirat";
    case SYS_rmdir:
      return "rmdir";
    case SYS_unlink:
      return "unlink";
    case SYS_unlinkat:
      return "unlinkat";
    case SYS_link:
      return "link";
    case SYS_linkat:
      return "linkat";
    case SYS_symlink:
      return "symlink";
    case SYS_symlinkat:
      return "symlinkat";
    case SYS_chmod:
      return "chmod";
    case SYS_fchmod:
      return "fchmod";
    default:
      return "";
  }
}

// Removing makes room: it works on a full disk.
inline bool needs_room(const std::string& name) {
  return name != "unlink" && name != "unlinkat" && name != "rmdir";
}

inline int exit_status_of(const std::function<void()>& body) {
  try {
    body();
    return 0;
  } catch (const Error& error) {
    return error.code() == ErrorCode::io ? 5 : 99;
  } catch (...) {
    return 99;
  }
}

// Runs `body` in a child with one thread. At its call number `at` (from 1) the fault happens;
// `error` is the errno of a call that fails.
inline TracedEnd run_traced(const std::function<void()>& body, CallFault fault, int64_t at,
                            int error = EIO) {
  const pid_t child = fork();
  if (child == 0) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(77);
    // Its output is of no interest, and not counted.
    const int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDOUT_FILENO);
    dup2(nowhere, STDERR_FILENO);
    raise(SIGSTOP);
    _exit(exit_status_of(body));
  }
  TracedEnd end;
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFSTOPPED(status)) {
    end.can_trace = false;
    return end;
  }
  ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  bool entering = true, failing = false;
  long signal = 0;
  for (;;) {
    ptrace(PTRACE_SYSCALL, child, nullptr, signal);
    waitpid(child, &status, 0);
    if (WIFEXITED(status) || WIFSIGNALED(status)) break;
    signal = WSTOPSIG(status);
    if (signal != (SIGTRAP | 0x80)) continue;  // a signal of its own, delivered next
    signal = 0;
    user_regs_struct registers{};
    ptrace(PTRACE_GETREGS, child, nullptr, &registers);
    if (entering) {
      const std::string name = write_call_name(registers);
      if (!name.empty()) {
        ++end.calls;
        ++end.names[name];
        const bool now = end.calls == at;
        if (fault == CallFault::kill && now) {
          kill(child, SIGKILL);
          waitpid(child, &status, 0);
          break;
        }
        failing = (fault == CallFault::fail_once && now) ||
                  (fault == CallFault::fail_from_then_on && end.calls >= at && needs_room(name));
        if (failing) {  // no call of that number: nothing happens
          registers.orig_rax = ~0ULL;
          ptrace(PTRACE_SETREGS, child, nullptr, &registers);
        }
      }
    } else if (failing) {
      failing = false;
      registers.rax = static_cast<uint64_t>(-static_cast<int64_t>(error));
      ptrace(PTRACE_SETREGS, child, nullptr, &registers);
    }
    entering = !entering;
  }
  end.killed = WIFSIGNALED(status);
  if (WIFEXITED(status)) end.status = WEXITSTATUS(status);
  return end;
}

}  // namespace osp

#endif
