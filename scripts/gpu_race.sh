#!/usr/bin/env bash
# Trains a pair of models for as many minutes as a GPU is there, and measures them as scripts/race.py does.
# Usage: scripts/gpu_race.sh MINUTES [--device cuda|cpu] [--recipe PREFIX] [--rates ADAM,OSP] [--tokens FOLDER]
#                            [--steps N] [--side-by-side] [--every-checkpoint] [--no-measure]
#                            [--no-train] [--checkpoints N] [--out FOLDER]
#   MINUTES             for the training of both, without measuring
#   --device NAME       cuda (default) or cpu
#   --recipe PREFIX     recipes PREFIX-adam.toml and PREFIX-osp.toml; default recipes/demo-long (30M parameters)
#   --rates ADAM,OSP    their learning rates; default 1e-3,3e-3, each one's best in docs/results.md
#   --tokens FOLDER     token shards; default runs/demo/tokens
#   --steps N           length of each run; default: as many as fit into MINUTES, after a trial of 30 steps each
#   --side-by-side      both at a time (a small model leaves most of a GPU idle); default one after the other
#   --checkpoints N     checkpoints of each run, all of them kept; default 10
#   --every-checkpoint  measures all checkpoints, not only the last
#   --no-measure        stops after training; a later call measures, for which no GPU is needed
#   --no-train          only measures what earlier calls trained
#   --out FOLDER        default runs/gpu-race
# At the end of MINUTES what still trains is stopped at a checkpoint, and is measured there. The same call goes
# on where it stopped, with the length of the first. Every measured state has a row.json, and the table is
# printed. The environment's OSP names another program than build/release/osp.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "gpu-race: $1" >&2; exit "${2:-2}"; }
say() { printf 'gpu-race: %s\n' "$*" >&2; }
usage() { sed -n '3,17s/^# \?//p' scripts/gpu_race.sh >&2; exit 2; }
device=cuda recipe=recipes/demo-long rates=1e-3,3e-3 tokens=runs/demo/tokens steps='' out=runs/gpu-race
minutes='' checkpoints=10 side_by_side='' every='' train=1 measure=1
while [ $# -gt 0 ]; do
  case "$1" in
    --device | --recipe | --rates | --tokens | --steps | --checkpoints | --out)
      [ $# -gt 1 ] || fail "$1 needs a value"
      declare "${1#--}=$2"
      shift ;;
    --side-by-side) side_by_side=1 ;;
    --every-checkpoint) every=1 ;;
    --no-measure) measure='' ;;
    --no-train) train='' ;;
    -*) usage ;;
    *) [ -z "$minutes" ] || usage; minutes=$1 ;;
  esac
  shift
done
[[ "$minutes" =~ ^[0-9]+$ ]] || usage
[[ "$checkpoints" =~ ^[1-9][0-9]*$ ]] || fail "--checkpoints takes a number, not '$checkpoints'"
[[ "$rates" == *,* ]] || fail "--rates takes two numbers: Adam's and OSP's, separated by a comma"
osp=$(realpath "${OSP:-build/release/osp}")
[ -x "$osp" ] || fail "$osp is missing; run scripts/build.sh osp first"
[ -f "$tokens/index.json" ] || fail "$tokens holds no token shards; run scripts/demo.sh or scripts/corpus.sh first"
mkdir -p "$out"
end=$((SECONDS + 60 * minutes))

# The optimizers' runs: name, recipe and rate.
rate_of() { if [ "$1" = adam ]; then echo "${rates%,*}"; else echo "${rates#*,}"; fi; }
folder_of() { echo "$out/$1-$(rate_of "$1")-seed1"; }
osp_train() {
  local optimizer=$1 folder=$2
  shift 2
  timeout --signal=TERM --kill-after=120 $((end > SECONDS ? end - SECONDS : 1)) \
    "$osp" train "$recipe-$optimizer.toml" --device "$device" --out "$folder" \
    --set "optim.lr=$(rate_of "$optimizer")" --set "data.path=$(realpath "$tokens")" "$@"
}

# ---- how many steps fit ------------------------------------------------------------------------
# seconds_per_step OPTIMIZER: from the second half of a trial of 30 steps.
seconds_per_step() {
  local trial=$out/trial-$1
  rm -rf "$trial"
  osp_train "$1" "$trial" --set train.steps=30 --set schedule.warmup_steps=3 --set train.log_every=1 --set train.validate_every=1000000 \
    --set train.sample_every=0 --set train.checkpoint_every=1000000 --quiet >&2 \
    || fail "the trial of $1 failed; its message is above" $?
  python3 - "$trial/metrics.jsonl" <<'PY'
import json, statistics, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
steps = [line for line in lines if line["kind"] == "step"][-15:]
print(statistics.median((b["tokens"] - a["tokens"]) / b["tokens_per_s"] for a, b in zip(steps, steps[1:])))
PY
  rm -rf "$trial"
}
if [ -z "$train" ]; then
  say "measuring only"
elif [ -f "$out/steps" ]; then
  steps=$(cat "$out/steps")
  say "$steps steps a run, as the first call chose"
elif [ -z "$steps" ]; then
  say "trials of 30 steps, to see how many fit"
  adam=$(seconds_per_step adam) muon=$(seconds_per_step osp)
  # A tenth is left for validation and checkpoints. Side by side is planned as if nothing were gained by it.
  steps=$(python3 -c "print(max(10, int(0.9 * $((end - SECONDS)) / ($adam + $muon) / 10) * 10))")
  say "$adam and $muon s a step: $steps steps a run"
fi
if [ -n "$steps" ]; then echo "$steps" > "$out/steps"; fi

# ---- training ----------------------------------------------------------------------------------
run() {
  local folder status=0 resume=() every_steps=$(((steps + checkpoints - 1) / checkpoints))
  folder=$(folder_of "$1")
  if [ -f "$folder/model/config.json" ]; then return; fi
  if [ -e "$folder/recipe.json" ]; then resume=(--resume); fi
  say "training $1 at $(rate_of "$1"), $steps steps on $device"
  osp_train "$1" "$folder" "${resume[@]}" --set "train.steps=$steps" \
    --set "schedule.warmup_steps=$((steps < 1000 ? (steps + 9) / 10 : 100))" \
    --set "train.checkpoint_every=$every_steps" --set train.keep_checkpoints=1000 \
    --set "train.validate_every=$every_steps" --set train.sample_every=0 \
    > "$folder.log" 2>&1 || status=$?
  case $status in
    0) ;;
    75 | 124) say "$1 was stopped at the end of its time; the same call goes on" ;;
    *) tail -3 "$folder.log" >&2; fail "training $1 failed; the whole message is in $folder.log" "$status" ;;
  esac
}
if [ -z "$train" ]; then
  :
elif [ -n "$side_by_side" ]; then
  run adam & first=$!
  run osp & second=$!
  status=0
  wait "$first" || status=$?
  wait "$second" || status=$?
  [ "$status" -eq 0 ] || exit "$status"
else
  # Half of the time is the first one's, so that the second has its half whatever happens.
  whole=$end
  end=$((SECONDS + (end - SECONDS) / 2)); run adam
  end=$whole; run osp
fi
[ -n "$measure" ] || exit 0

# ---- measuring, with the functions of scripts/race.py --------------------------------------------
say "measuring on the CPU"
OSP=$osp PYTHONDONTWRITEBYTECODE=1 python3 - "$tokens" "$every" "${recipe##*/}" "$(folder_of adam)" "$(folder_of osp)" <<'PY'
import json, sys
from pathlib import Path

sys.path.insert(0, "scripts")
import race

race.TOKENS = Path(sys.argv[1]).resolve()
states = []
for folder in map(Path, sys.argv[4:]):
    optimizer, rate, seed = folder.name.rsplit("-seed", 1)[0].partition("-")[::2] + (folder.name[-1],)
    steps = sorted(folder.glob("step-*"), key=lambda path: int(path.name[5:]))
    steps = [path.resolve() for path in steps if (path / "manifest.json").exists()]
    if not steps:
        print(f"gpu-race: {folder} has no checkpoint yet", file=sys.stderr)
        continue
    finished = folder.resolve() / "model"
    if finished.exists():
        ended = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]
        steps = [path for path in steps if int(path.name[5:]) < ended]
    last = [finished] if finished.exists() else steps[-1:]
    for model in dict.fromkeys((steps if sys.argv[2] else []) + last):
        # race.measure takes the folder that has the model, and leaves row.json there.
        at = 0 if model == finished else int(model.name[5:])
        state = race.Run(folder.parent, sys.argv[3], optimizer, float(rate), int(seed), at)
        state.trained = state.folder = folder.resolve()
        if at:
            state.folder = folder.resolve() / "measured" / model.name
            state.folder.mkdir(parents=True, exist_ok=True)
            (state.folder / "model").unlink(missing_ok=True)
            (state.folder / "model").symlink_to(model)
        if not state.row():
            print(f"gpu-race: {state.folder.relative_to(folder.parent.resolve())}", file=sys.stderr)
            race.measure(state)
        states.append(state)
race.print_table([state.row() for state in sorted(states, key=lambda state: state.at or float("inf"))])
PY
