#!/usr/bin/env bash
# Breaks training runs in every way that docs/reliability.md lists, resumes them, and compares what they
# become with runs that nobody disturbed, bit for bit.
# Usage: scripts/torture.sh [--minutes N] [--seed N] [--out FOLDER] [--rounds N | --smoke] [--only NAME]
#   --minutes N   begin rounds of faults for so long (default 60); each round is a plan made from the seed
#   --seed N      another plan (default 1). It fixes faults, delays, files and bytes; which step a kill by
#                 time meets depends on the machine
#   --out FOLDER  for torture.json, and runs that failed (default build/torture, emptied first)
#   --rounds N    so many rounds and no more
#   --only NAME   lives of one kind alone, such as life_of_calls (scripts/torture.py)
#   --smoke       one small round, half a minute: the test suite runs it
# Prints a line per kind of fault; exit status 1 if any injection was not survived. Uses the program of
# $OSP_BUILD, else build/release, and builds it if it is missing. A real full disk needs a mount namespace
# (root, or unprivileged ones); where that or strace is forbidden, those faults are skipped with a message.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${OSP_BUILD:-build/release}
[ -x "$build/osp" ] || scripts/build.sh osp
python=.venv/bin/python
[ -x "$python" ] || python=python3
# In a mount namespace of its own the small disks vanish with this process, whatever ends it.
in_namespace=()
if unshare --mount true 2>/dev/null; then
  in_namespace=(unshare --mount)
elif unshare --mount --map-root-user true 2>/dev/null; then
  in_namespace=(unshare --mount --map-root-user)
fi
exec "${in_namespace[@]}" "$python" scripts/torture.py --build "$build" "$@"
