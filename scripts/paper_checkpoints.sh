#!/usr/bin/env bash
# Measures the paper's published checkpoints, and compares them with the paper's Tables 2 and 4.
# Usage: scripts/paper_checkpoints.sh --data TEXT --calibration TEXT [--out FOLDER] [--method NAME]
#                                     [--expected FILE] MODEL...
#   MODEL               a folder that has a checkpoint, or that holds folders of checkpoints; or a name, which
#                       is downloaded with your own `hf` or `huggingface-cli`: OSP-1.4B-100B-Adam,
#                       OSP-1.4B-100B-Muon-SSNorm-EmbProj, OSP-1.4B-1T-Adam, … (recipes/paper_expected.json)
#   --data TEXT         the test text of WikiText-2 (wiki.test.raw, or the hub's file)
#   --calibration TEXT  its training text
#   --out FOLDER        where downloads, results and comparison.md go; default runs/paper
#   --method NAME       what osp quantize measures; default all. For 1.4B parameters on a CPU we expect
#                       days for all, and hours for ffn-hadamard+rtn, which needs no calibration
#   --expected FILE     other expected numbers
# A model is known by the name of its folder. A second call measures only what is missing. The status is 1
# if a number lies outside of the tolerance that FILE gives for it. The environment's OSP names another
# program than build/release/osp.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "paper: $1" >&2; exit "${2:-2}"; }
usage() { sed -n '3,15s/^# \?//p' scripts/paper_checkpoints.sh >&2; exit 2; }
say() { printf 'paper: %s\n' "$*" >&2; }
data='' calibration='' out=runs/paper method=all expected=recipes/paper_expected.json names=()
while [ $# -gt 0 ]; do
  case "$1" in
    --data | --calibration | --out | --method | --expected)
      [ $# -gt 1 ] || fail "$1 needs a value"
      declare "${1#--}=$2"
      shift ;;
    -*) usage ;;
    *) names+=("$1") ;;
  esac
  shift
done
if [ ${#names[@]} -eq 0 ] || [ -z "$data" ] || [ -z "$calibration" ]; then usage; fi
for file in "$data" "$calibration" "$expected"; do
  [ -e "$file" ] || fail "$file: no such file"
done
osp=${OSP:-build/release/osp}
[ -x "$osp" ] || fail "$osp is missing; run scripts/build.sh osp first"

# download NAME: the checkpoint into $out/NAME/checkpoint, with the user's own tool and login.
download() {
  local name=$1 folder=$out/$1/checkpoint tool=''
  if [ -f "$folder/config.json" ] && compgen -G "$folder/*.safetensors" >/dev/null; then return; fi
  grep -q "\"$name\"" "$expected" || fail "$name is neither a folder nor a name in $expected"
  if command -v hf >/dev/null; then tool=hf; elif command -v huggingface-cli >/dev/null; then tool=huggingface-cli; fi
  [ -n "$tool" ] || fail "$name is no folder, and neither hf nor huggingface-cli is there to download it: pip install huggingface_hub, or download it elsewhere and pass its folder"
  say "downloading $name with $tool"
  "$tool" download "dmis-lab/$name" --local-dir "$folder" >&2 || fail "$tool could not download $name" 5
}

folders=()
for name in "${names[@]}"; do
  if [ -f "$name/config.json" ]; then
    folders+=("${name%/}")
  elif [ -d "$name" ]; then
    found=0
    for config in "$name"/*/config.json; do
      if [ -f "$config" ]; then folders+=("$(dirname "$config")"); found=1; fi
    done
    [ "$found" = 1 ] || fail "$name holds no checkpoint: no config.json in it or in a folder of it"
  else
    download "$name"
    folders+=("$out/$name/checkpoint")
  fi
done

for folder in "${folders[@]}"; do
  name=$(basename "$folder")
  if [ "$name" = checkpoint ]; then name=$(basename "$(dirname "$folder")"); fi
  results=$out/$name
  mkdir -p "$results"
  if [ ! -f "$results/eval.json" ]; then
    say "$name: perplexity at 16-16-16, 4-8-8 and 4-4-4"
    "$osp" eval "$folder" --data "$data" --bits 16-16-16,4-8-8,4-4-4 --json > "$results/eval.json.tmp"
    mv "$results/eval.json.tmp" "$results/eval.json"
  fi
  if [ ! -f "$results/quantize-$method.json" ]; then
    say "$name: quantizing by $method"
    "$osp" quantize "$folder" --method "$method" --bits 4-4-4 --report --data "$data" \
      --calibration "$calibration" --json > "$results/quantize-$method.json.tmp"
    mv "$results/quantize-$method.json.tmp" "$results/quantize-$method.json"
  fi
done
python3 scripts/paper_compare.py "$out" "$expected" | tee "$out/comparison.md"
