#!/usr/bin/env bash
# Fuzzes the parsers: builds every fuzz target with clang, libFuzzer, ASan and UBSan and runs each for
# some seconds on a copy of its corpus. A finding is kept in build/fuzz/findings and ends the script with
# status 1; to keep it as a test, copy it to fuzz/corpus/NAME, which scripts/test.sh replays.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]     60 s, all targets; a target is NAME of fuzz/NAME_fuzz.cpp
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
if [[ ! $seconds =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: scripts/fuzz.sh [SECONDS [TARGET...]]" >&2
  exit 2
fi
targets=("$@")
if [[ ${#targets[@]} == 0 ]]; then
  for file in fuzz/*_fuzz.cpp; do
    name=$(basename "$file" _fuzz.cpp)
    targets+=("$name")
  done
fi
command -v clang++ >/dev/null || { echo "fuzz: needs clang++ with libFuzzer (Debian: clang)" >&2; exit 2; }
build=${OSP_FUZZ_BUILD:-build/fuzz}
[[ -f $build/build.ninja ]] || cmake --preset fuzz -B "$build" >&2
ninja -C "$build" "${targets[@]/%/_fuzz}" >&2
mkdir -p "$build/findings"
status=0
for name in "${targets[@]}"; do
  corpus=$build/corpus/$name
  mkdir -p "$corpus"
  cp -r "fuzz/corpus/$name/." "$corpus"
  echo "fuzz: $name for $seconds s" >&2
  "$build/${name}_fuzz" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$build/findings/$name-" "$corpus" 2>"$build/findings/$name.log" || {
    status=1
    echo "fuzz: $name FAILED, see $build/findings/$name.log" >&2
  }
  grep -E "number_of_executed_units|new_units_added|ERROR|SUMMARY" "$build/findings/$name.log" >&2 || true
done
exit $status
