#!/usr/bin/env bash
# The demo: on real text, the same small model trained by OSP and by Adam, each at its best rate, with three
# seeds; what their outliers cost when they are rounded to 4 bits; one page.
# Usage: scripts/demo.sh [--7m | --long]
#   (no option)  1.9M parameters, 2.6M tokens, six runs of one thread side by side: 11 to 16 minutes on two cores
#   --7m         7M parameters, 3M tokens, three runs: half an hour to an hour on two cores; runs/demo-7m
#   --long       a wider, deeper model on 50M tokens: many hours; runs/demo-long
# A second call does only what is missing; an interrupted run resumes from its checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  "") name=demo; prefix=demo ;;
  --7m) name=demo-7m; prefix=demo-7m ;;
  --long) name=demo-long; prefix=demo-long ;;
  *) echo "usage: scripts/demo.sh [--7m | --long]" >&2; exit 2 ;;
esac
start=$SECONDS
say() { printf 'demo [%d min]: %s\n' $(((SECONDS - start) / 60)) "$*" >&2; }

say "installing missing packages"
scripts/setup.sh
say "building the program"
scripts/build.sh osp
osp=build/release/osp
folder=runs/$name
mkdir -p "$folder"

corpus=.cache/gcide/usr/share/dictd/gcide.dict.dz
if [ ! -f "$corpus" ]; then
  say "fetching the text: Debian's dict-gcide, 40 MB of English definitions and quotations"
  mkdir -p .cache/gcide
  download() { (cd .cache/gcide && apt-get download -qq dict-gcide 2>/dev/null && dpkg-deb -x dict-gcide_*.deb .); }
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
  download || { "${as_root[@]}" apt-get update -qq && download; } \
    || { echo "demo: cannot download the Debian package dict-gcide; check the network and 'apt-get update'" >&2; exit 5; }
fi
if [ ! -f runs/demo/tokens/index.json ]; then
  say "tokenizing the text"
  "$osp" tokenize "$corpus" --tokenizer recipes/gcide-4096 --documents entries --validation-fraction 0.01 --out runs/demo/tokens
fi

# $1: recipe after the prefix, $2: folder of the run, then more words for `osp train`.
train() {
  local recipe=recipes/$prefix-$1.toml run=$folder/$2
  shift 2
  if [ -f "$run/model/config.json" ]; then return; fi
  local resume=()
  # Also where it was killed before its first checkpoint.
  if [ -e "$run/recipe.json" ]; then resume=(--resume); fi
  "$osp" train "$recipe" --out "$run" "${resume[@]}" "$@"
}
# $1: folder of the run, $2: the result, then the words of the command that prints it as JSON.
measure() {
  local run=$folder/$1 result=$folder/$1/$2
  shift 2
  if [ -f "$result" ]; then return; fi
  "$osp" "$1" "$run/model" --data runs/demo/tokens "${@:2}" --json >"$result.tmp"
  mv "$result.tmp" "$result"
}

# Three large runs, one after the other with all threads.
if [ "$name" != demo ]; then
  for run in adam adam-best osp; do
    say "training $run (recipes/$prefix-$run.toml)"
    train "$run" "$run"
    say "quantizing $run to 4 bits and measuring its perplexity"
    measure "$run" eval.json eval --bits 16-16-16,4-4-4
    say "measuring the outliers of $run, and what they cost"
    measure "$run" analysis.json analyze
  done
  runs=("$folder"/adam "$folder"/adam-best "$folder"/osp)
  labels=(--label "adam=Adam, same rate" --label "adam-best=Adam, best rate" --label "osp=OSP")
fi

# Six small runs side by side, one thread each.
if [ "$name" = demo ]; then
  cores=$(nproc)  # which OMP_NUM_THREADS would change
  export OMP_NUM_THREADS=1
  small_run() {
    train "$1" "$1-$2" --set run.seed="$2" --quiet >/dev/null
    measure "$1-$2" eval.json eval --bits 16-16-16,4-4-4 --quiet
    measure "$1-$2" analysis.json analyze --data-tokens 65536 --cost-tokens 16384 --quiet
    say "$1, seed $2: trained, rounded to 4 bits and measured"
  }
  set -m  # each job is a process group, so that stopping reaches the program in it
  stop() {
    trap "" INT TERM
    for job in $(jobs -p); do kill -- "-$job" 2>/dev/null || true; done
    wait || true
    echo "demo: stopped; the same command goes on from here" >&2
    exit 130
  }
  trap stop INT TERM
  say "six runs of one thread, $cores at a time"
  for seed in 1 2 3; do
    for recipe in osp adam; do
      while [ "$(jobs -rp | wc -l)" -ge "$cores" ]; do wait -n; done
      small_run "$recipe" "$seed" &
    done
  done
  while [ -n "$(jobs -p)" ]; do wait -n; done
  trap - INT TERM
  runs=() labels=()
  for seed in 1 2 3; do
    runs+=("$folder/adam-$seed" "$folder/osp-$seed")
    labels+=(--label "adam-$seed=Adam, seed $seed" --label "osp-$seed=OSP, seed $seed")
  done
fi

say "writing $folder/report.html"
"$osp" report "${runs[@]}" --out "$folder/report.html" --summary "$folder/summary.json" "${labels[@]}"
if [ "$name" = demo ]; then
  .venv/bin/python scripts/demo_table.py "$folder"
  # The end of the road: the 4-bit models write.
  unset OMP_NUM_THREADS
  for recipe in osp adam; do
    quantized=$folder/$recipe-1-w4a4kv4
    if [ ! -d "$quantized" ]; then
      "$osp" quantize "$folder/$recipe-1/model" --method rtn --out "$quantized" --quiet
    fi
    say "$recipe's 4-bit model, in integers:"
    "$osp" generate "$quantized" --prompt "Water, n. " --max-tokens 80
  done
fi
say "done; open $folder/report.html in a browser"
