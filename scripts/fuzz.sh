#!/usr/bin/env bash
# Fuzzes the parsers: builds every fuzz target with clang, libFuzzer, ASan and UBSan, runs each on a copy of
# its corpus, and prints how often it ran. A finding is kept in build/fuzz/findings and ends the script with
# status 1; to keep it as a test, copy it to fuzz/corpus/NAME, which scripts/test.sh replays.
#
#   scripts/fuzz.sh [--seconds N] [--runs N | --replay] [--add] [TARGET...]
#     --seconds N  end each target after N seconds (default 60; with --runs 3600)
#     --runs N     end each target after N executions
#     --replay     run each file of fuzz/corpus once, with the sanitizers, and no more
#     --add        add to fuzz/corpus the inputs that reach code which no input there reaches
#     TARGET       NAME of fuzz/NAME_fuzz.cpp; without one all of them
#
# The table on stdout is kept, a row a target, in build/fuzz/results: a target that is there with as many
# executions as --runs asks for is not run again, so that an interrupted campaign goes on. Its column
# "accepted" is the share of inputs that the parser took: near 0 %, little but the first checks is tested.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { echo "usage: scripts/fuzz.sh [--seconds N] [--runs N | --replay] [--add] [TARGET...]" >&2; exit 2; }
seconds='' runs='' add='' replay='' targets=()
while [ $# -gt 0 ]; do
  case "$1" in
    --seconds | --runs)
      [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || usage
      if [ "$1" = --runs ]; then runs=$2; else seconds=$2; fi
      shift ;;
    --add) add=yes ;;
    --replay) replay=yes ;;
    -*) usage ;;
    *) [ -f "fuzz/$1_fuzz.cpp" ] || { echo "fuzz: there is no fuzz/$1_fuzz.cpp" >&2; exit 2; }
       targets+=("$1") ;;
  esac
  shift
done
: "${seconds:=$([ -n "$runs" ] && echo 3600 || echo 60)}"
if [ ${#targets[@]} = 0 ]; then
  for file in fuzz/*_fuzz.cpp; do targets+=("$(basename "$file" _fuzz.cpp)"); done
fi
command -v clang++ >/dev/null || { echo "fuzz: needs clang++ with libFuzzer (Debian: clang)" >&2; exit 2; }
build=${OSP_FUZZ_BUILD:-build/fuzz}
[ -f "$build/build.ninja" ] || cmake --preset fuzz -B "$build" >&2
ninja -C "$build" "${targets[@]/%/_fuzz}" >&2
mkdir -p "$build/findings" "$build/results"

# fuzz_target NAME: runs one target and writes its row of the table.
fuzz_target() {
  local name=$1 corpus=$build/corpus/$1 log=$build/findings/$1.log row=$build/results/$1 finding=none
  mkdir -p "$corpus"
  cp -r "fuzz/corpus/$name/." "$corpus"
  echo "fuzz: $name for at most $seconds s${runs:+ or $runs executions}" >&2
  # A search for leaks after an input takes more time than the input: half of a run, and nine tenths of a slow
  # one. They are looked for once in every input that the run kept.
  "$build/${name}_fuzz" -max_total_time="$seconds" ${runs:+-runs="$runs"} -detect_leaks=0 -timeout=60 \
    -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$build/findings/$name-" "$corpus" 2>"$log" ||
    finding=$log
  "$build/${name}_fuzz" -runs=0 -timeout=60 -rss_limit_mb=2048 -artifact_prefix="$build/findings/$name-" \
    "$corpus" 2>"$build/findings/$name-leaks.log" || finding=$build/findings/$name-leaks.log
  local executed rate accepted
  executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
  accepted=$(sed -n 's/^stat::accepted_units: *//p' "$log")
  accepted=$((100 * ${accepted:-0} / (${executed:-0} > 0 ? executed : 1)))
  printf '| %s | %s | %s | %s %% | %s |\n' "$name" "${executed:-0}" "${rate:-0}" "$accepted" "$finding" >"$row"
  [ "$finding" = none ] || { echo "fuzz: $name FAILED, see $finding" >&2; return 1; }
}

status=0
if [ -n "$replay" ]; then
  for name in "${targets[@]}"; do
    log=$build/findings/$name-replay.log
    if "$build/${name}_fuzz" -runs=0 -artifact_prefix="$build/findings/$name-" -timeout=60 \
      -rss_limit_mb=2048 "fuzz/corpus/$name" 2>"$log"; then
      echo "fuzz: $name: $(find "fuzz/corpus/$name" -type f | wc -l) files pass" >&2
    else
      status=1
      echo "fuzz: $name FAILED, see $log" >&2
    fi
  done
  exit $status
fi
for name in "${targets[@]}"; do
  done_before=$(cut -d'|' -f3 "$build/results/$name" 2>/dev/null || true)
  if [ -z "$runs" ] || [ "${done_before:-0}" -lt "$runs" ]; then fuzz_target "$name" || status=1; fi
  if [ -n "$add" ]; then
    # Edges alone (no counters, no value profile), and the fewest inputs that cover them.
    "$build/${name}_fuzz" -set_cover_merge=1 -use_counters=0 -artifact_prefix="$build/findings/$name-" \
      -max_len=4096 -timeout=60 -rss_limit_mb=2048 \
      "fuzz/corpus/$name" "$build/corpus/$name" 2>"$build/findings/$name-merge.log" ||
      { status=1; echo "fuzz: merging $name FAILED, see $build/findings/$name-merge.log" >&2; }
  fi
done
echo '| target | executions | a second | accepted | finding |'
echo '|---|---:|---:|---:|---|'
for name in "${targets[@]}"; do cat "$build/results/$name"; done
exit $status
