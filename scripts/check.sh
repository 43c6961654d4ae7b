#!/usr/bin/env bash
# Checks the sources: formatters, linters, clang-tidy, and over the byte-level folders the sanitizers of
# addresses, undefined behaviour and threads.
# Usage: scripts/check.sh [--fast | --all] [--base COMMIT]
#   (no option)     formatters and linters, clang-tidy on changed lines for at most 3 minutes, sanitizers
#   --fast          formatters and linters only, some seconds; scripts/test.sh runs this
#   --all           clang-tidy on all C++ files without a time limit, sanitizers with the tensor library too
#   --base COMMIT   lines changed since COMMIT; default: since the branch left origin/main, else HEAD~1
# Every check runs; the status is 1 if any failed. A check whose program is missing is skipped with a message.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { echo "usage: scripts/check.sh [--fast | --all] [--base COMMIT]" >&2; exit 2; }
mode=changed
base=
while [ $# -gt 0 ]; do
  case "$1" in
    --fast) mode=fast ;;
    --all) mode=all ;;
    --base) [ $# -gt 1 ] || usage; base=$2; shift ;;
    *) usage ;;
  esac
  shift
done
scripts/setup.sh --with-tests

failed=()
# check NAME COMMAND...: runs the command, shows its output if it fails.
check() {
  local name=$1 start=$SECONDS output
  shift
  if output=$("$@" 2>&1); then
    echo "check: $name passed ($((SECONDS - start)) s)" >&2
  else
    printf '%s\n' "$output" >&2
    echo "check: $name FAILED" >&2
    failed+=("$name")
  fi
}
skip() { echo "check: $1 SKIPPED: $2" >&2; }

# clang-format and clang-tidy are pinned to one major version: others format and warn differently.
llvm() {
  command -v "$1-14" || { "$1" --version 2>/dev/null | grep -q 'version 14\.' && command -v "$1"; }
}
files() { git ls-files --cached --others --exclude-standard -- "$@" | while read -r f; do [ ! -f "$f" ] || echo "$f"; done; }

# ---- formatters and linters: some seconds -------------------------------------------------------
if format=$(llvm clang-format); then
  mapfile -t sources < <(files '*.cpp' '*.h' '*.inc' '*.js')
  check clang-format "$format" --dry-run --Werror "${sources[@]}"
else
  skip clang-format "no clang-format of version 14"
fi
check "ruff format" .venv/bin/ruff format --quiet --diff .
check "ruff check" .venv/bin/ruff check --quiet .
if command -v node >/dev/null; then
  for script in osp/report/page.js osp/serve/chat_page.js; do
    check "node --check $script" node --check "$script"
  done
else
  skip "node --check" "no node"
fi
if command -v shellcheck >/dev/null; then
  check shellcheck shellcheck .ci/run scripts/*.sh bench/peers/*.sh
else
  skip shellcheck "no shellcheck"
fi

# ---- clang-tidy ---------------------------------------------------------------------------------
# Prints the commit to compare with, or nothing (a clone of one commit has none).
find_base() {
  local fork
  if [ -n "$base" ]; then git rev-parse --verify "$base^{commit}"; return; fi
  fork=$(git merge-base HEAD origin/main 2>/dev/null || true)
  if [ -n "$fork" ] && [ "$fork" != "$(git rev-parse HEAD)" ]; then echo "$fork"; return; fi
  git rev-parse --quiet --verify HEAD~1 || true
}

# The files to compile for the sources changed since a commit: for a header its own .cpp or one that includes
# it, for a kernel body its generated file.
changed_units() {
  {
    git diff --name-only --diff-filter=d "$1" -- '*.cpp' '*.h' '*.inc'
    git ls-files --others --exclude-standard -- '*.cpp' '*.h' '*.inc'
  } | while read -r file; do
    unit=$file
    case "$file" in
      cmake/*) continue ;;
      *_body.inc) unit=build/check/generated/${file%_body.inc}_portable.cpp ;;
      *.h)
        unit=${file%.h}.cpp
        [ -f "$unit" ] || unit=$(git grep -l "\"$file\"" -- '*.cpp' | head -n 1) || true ;;
    esac
    [ -z "$unit" ] || echo "$unit"
  done | sort -u
}

# The changed lines as clang-tidy's --line-filter wants them: [{"name":"FILE","lines":[[FIRST,LAST],…]},…];
# of a new file all lines.
changed_lines() {
  {
    git diff --unified=0 --diff-filter=d --src-prefix=a/ --dst-prefix=b/ "$1" -- '*.cpp' '*.h' '*.inc'
    git ls-files --others --exclude-standard -- '*.cpp' '*.h' '*.inc' | sed 's/^/untracked: /'
  } | awk '
    function close_file() { if (ranges != "") entries = entries ",{\"name\":\"" file "\",\"lines\":[" substr(ranges, 2) "]}" }
    /^\+\+\+ b\// { close_file(); file = substr($0, 7); ranges = "" }
    /^@@ / {
      parts = split($3, at, ","); first = substr(at[1], 2); count = parts > 1 ? at[2] : 1
      if (count > 0) ranges = ranges ",[" first "," first + count - 1 "]"
    }
    /^untracked: / { entries = entries ",{\"name\":\"" substr($0, 12) "\"}" }
    END { close_file(); print "[" substr(entries, 2) "]" }'
}

# tidy_one FILE: nothing after the time limit, but a note in build/check/skipped.
tidy_one() {
  if [ "$TIDY_UNTIL" -gt 0 ] && [ "$(date +%s)" -ge "$TIDY_UNTIL" ]; then
    echo "$1" >> build/check/skipped
  else
    "$TIDY" -p build/check --quiet ${TIDY_LINES:+--line-filter="$TIDY_LINES"} "$1" 2>/dev/null
  fi
}
export -f tidy_one

run_tidy() {
  # Without unity build and precompiled headers: clang cannot read those of g++.
  cmake -S . -B build/check -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON >/dev/null
  rm -f build/check/skipped
  printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} bash -c 'tidy_one {}'
}

# A new build takes about 4 minutes on two cores.
run_sanitizers() {
  [ -f build/asan/build.ninja ] || cmake --preset asan
  cmake --build build/asan
  ctest --test-dir build/asan --output-on-failure -j "$(nproc)"
}

# Every test that starts threads of our own (OpenMP's barriers are unknown to the sanitizer): in the folders
# without the tensor library, and the engine's worker pool and the server's scheduler by themselves. With the
# tensor library, whose build takes some minutes (--all): the saver, the engine and the whole server.
# Addresses are not randomized: the sanitizer of g++ 12 wants its own places in memory.
run_thread_sanitizer() {
  local tests=(
    'build/tsan/osp_tokenizer_test *Threads*' 'build/tsan/osp_data_test *Pipeline*:*BuildShards*'
    'build/tsan/osp_http_test Served*:Posted*' 'build/tsan/worker_pool_test *' 'build/tsan/scheduler_test *'
  ) test
  [ -f build/tsan/build.ninja ] || cmake --preset tsan
  cmake --build build/tsan --target osp_tokenizer_test osp_data_test osp_http_test
  if [ "$mode" = all ]; then
    [ -f build/tsan-torch/build.ninja ] || cmake --preset tsan -B build/tsan-torch -DOSP_TORCH=ON
    cmake --build build/tsan-torch --target osp_train_test osp_runtime_test osp_serve_test
    tests+=(
      'build/tsan-torch/osp_train_test Saver*' 'build/tsan-torch/osp_runtime_test Engine.*Threads:Engine.*Beside*'
      'build/tsan-torch/osp_serve_test Running*'
    )
  fi
  thread_test worker_pool_test osp/runtime/worker_pool{,_test}.cpp
  thread_test scheduler_test osp/serve/{scheduler,scheduler_test,prefix_cache}.cpp \
    osp/runtime/{kv_pages,aligned_memory}.cpp osp/model/{sampling,token_penalties}.cpp osp/base/{interrupt,philox,sha256}.cpp
  for test in "${tests[@]}"; do
    OMP_NUM_THREADS=1 TSAN_OPTIONS="halt_on_error=1 second_deadlock_stack=1" \
      setarch -R "${test% *}" --gtest_filter="${test#* }"
  done
}
# thread_test NAME FILES...: the program build/tsan/NAME of tests that need no library of ours.
thread_test() {
  g++ -std=c++20 -O1 -g1 -fsanitize=thread -I. "${@:2}" osp/base/error.cpp -lfmt -lgtest -lgtest_main -lcrypto \
    -pthread -o "build/tsan/$1"
}

if [ "$mode" != fast ]; then
  units=()
  since=$(find_base)
  if [ "$mode" = all ]; then
    mapfile -t units < <(files 'osp/*.cpp' 'tests/*.cpp' 'microbench/*.cpp' 'fuzz/*.cpp' 'examples/*.cpp')
  elif [ -n "$since" ]; then
    mapfile -t units < <(changed_units "$since")
  fi
  if ! TIDY=$(llvm clang-tidy); then
    skip clang-tidy "no clang-tidy of version 14"
  elif [ "$mode" = changed ] && [ -z "$since" ]; then
    skip clang-tidy "no commit to compare with; --all checks every file"
  elif [ ${#units[@]} = 0 ]; then
    skip clang-tidy "no C++ file changed since ${since:0:12}"
  else
    TIDY_UNTIL=0
    TIDY_LINES=
    if [ "$mode" = changed ]; then
      TIDY_UNTIL=$(($(date +%s) + 180))
      TIDY_LINES=$(changed_lines "$since")
    fi
    export TIDY TIDY_UNTIL TIDY_LINES
    check "clang-tidy (${#units[@]} files)" run_tidy "${units[@]}"
    if [ -s build/check/skipped ]; then
      skip "clang-tidy ($(wc -l < build/check/skipped) of these files)" "3 minutes are over; --all has no limit"
    fi
  fi
  check "tests with sanitizers (build/asan)" run_sanitizers
  check "threads with a sanitizer (build/tsan)" run_thread_sanitizer
  # The parsers that need the tensor library. Their build with clang took 22 minutes on two cores without
  # a compiler cache (37 minutes of steps, most of them libraries that every one of these targets links).
  if [ "$mode" = all ]; then check "fuzz corpora with sanitizers (build/fuzz)" scripts/fuzz.sh --replay; fi
fi

if [ ${#failed[@]} -gt 0 ]; then
  echo "check: FAILED: ${failed[*]}" >&2
  exit 1
fi
echo "check: all passed" >&2
