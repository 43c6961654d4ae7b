#!/usr/bin/env bash
# The demo: on real text, the same model trained three times (OSP, Adam at OSP's learning rate, Adam at
# its own best rate), its activation outliers measured, and each quantized to 4 bits.
# Usage: scripts/demo.sh [--long]
#   (no option)  7M parameters, 3M tokens a run: half an hour to an hour on two cores
#   --long       a wider, deeper model on 50M tokens: many hours; runs/demo-long
# A second call does only what is missing; an interrupted run resumes from its checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."

case "${1:-}" in
  "") name=demo; runs=(adam adam-best osp); prefix=demo ;;
  --long) name=demo-long; runs=(adam adam-best osp); prefix=demo-long ;;
  *) echo "usage: scripts/demo.sh [--long]" >&2; exit 2 ;;
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

arguments=()
for run in "${runs[@]}"; do
  if [ ! -f "$folder/$run/model/config.json" ]; then
    say "training $run (recipes/$prefix-$run.toml)"
    resume=()
    if compgen -G "$folder/$run/step-*" >/dev/null; then resume=(--resume); fi
    "$osp" train "recipes/$prefix-$run.toml" --out "$folder/$run" "${resume[@]}"
  fi
  if [ ! -f "$folder/$run/eval.json" ]; then
    say "quantizing $run to 4 bits and measuring its perplexity"
    "$osp" eval "$folder/$run/model" --data runs/demo/tokens --bits 16-16-16,4-4-4 --json > "$folder/$run/eval.json.tmp"
    mv "$folder/$run/eval.json.tmp" "$folder/$run/eval.json"
  fi
  if [ ! -f "$folder/$run/analysis.json" ]; then
    say "measuring the outliers of $run"
    "$osp" analyze "$folder/$run/model" --data runs/demo/tokens --json > "$folder/$run/analysis.json.tmp"
    mv "$folder/$run/analysis.json.tmp" "$folder/$run/analysis.json"
  fi
  arguments+=("$folder/$run")
done

say "writing $folder/report.html"
"$osp" report "${arguments[@]}" --out "$folder/report.html" --summary "$folder/summary.json" \
  --label "adam=Adam, same rate" --label "adam-best=Adam, best rate" --label "osp=OSP"
say "done; open $folder/report.html in a browser"
