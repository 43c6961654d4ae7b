#!/usr/bin/env python3
"""Runs the races of docs/evidence.md one after the other, and prints their table.

    scripts/race.py [--jobs N] [--stage NAME] [--out FOLDER] [--table] [--dry-run]

Each job runs at the lowest priority on one thread. The script knows what is next: a run that was interrupted
resumes from its last checkpoint, a finished one is measured, a measured one is left alone; so the same call
continues after every stop. Within a stage every optimizer first runs its whole grid of learning rates with
the first seed; the rate with the lowest validation loss, and nothing else, then runs with the other seeds.

FOLDER (default runs/race) gets a folder per run, with row.json when it is measured: the numbers of the table
and the command that printed them.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OSP = ROOT / "build" / "release" / "osp"
TOKENS = ROOT / "runs" / "demo" / "tokens"
GRID = [3e-4, 6e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 6e-3]  # the same for both optimizers
SEEDS = [1, 2, 3]
MEASURED_TOKENS = 65536
# Stages in the order in which they run: recipe prefix, steps, whether the grid is searched. A stage without
# a grid takes the best rates of the stage named.
STAGES = {
    "tiny-2000": {"prefix": "tiny", "steps": 2000, "rates": GRID},
    "tiny-10000": {"prefix": "tiny", "steps": 10000, "rates": GRID},
    "tiny-50000": {"prefix": "tiny", "steps": 50000, "rates": GRID},
    "tiny-100000": {"prefix": "tiny", "steps": 100000, "rates_of": "tiny-50000"},
}
OPTIMIZERS = ["adam", "osp"]


class Run:
    """One training run: an optimizer, a rate and a seed of a stage."""

    def __init__(self, out: Path, stage: str, optimizer: str, rate: float, seed: int):
        self.stage, self.optimizer, self.rate, self.seed = stage, optimizer, rate, seed
        self.name = f"{stage}/{optimizer}-{rate:g}-seed{seed}"
        self.folder = out / self.name

    def row(self) -> dict | None:
        path = self.folder / "row.json"
        return json.loads(path.read_text()) if path.exists() else None

    def state(self) -> str:
        if self.row():
            return "measured"
        if (self.folder / "model" / "config.json").exists():
            return "trained"
        return "interrupted" if any(self.folder.glob("step-*")) else "not begun"


def osp(*words: object) -> dict:
    """Runs `osp` on one thread at the lowest priority and returns what it prints."""
    command = ["nice", "-n", "19", str(OSP), *map(str, words), "--quiet", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
    if result.returncode:
        raise RuntimeError(f"status {result.returncode}: {' '.join(command)}")
    return json.loads(result.stdout)


def train(run: Run) -> None:
    stage = STAGES[run.stage]
    words = ["train", f"recipes/race/{stage['prefix']}-{run.optimizer}.toml", "--out", run.folder]
    for key, value in {
        "optim.lr": run.rate,
        "run.seed": run.seed,
        "train.steps": stage["steps"],
        "data.path": TOKENS,
    }.items():
        words += ["--set", f"{key}={value}"]
    osp(*words, *(["--resume"] if run.state() == "interrupted" else []))


def divergence(model: Path, method: str, seeds: int) -> tuple[float, float]:
    """KL in nats a token at 4-4-4 by the method: mean and standard deviation over seeds of rotations."""
    result = osp("quantize", model, "--method", method, "--bits", "4-4-4", "--report", "--data", TOKENS,
                 "--data-tokens", MEASURED_TOKENS, "--seeds", seeds)  # fmt: skip
    values = [run["measured"]["kl_divergence"] for run in result["runs"]]
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / max(1, len(values) - 1)) ** 0.5
    return mean, spread


def measure(run: Run) -> None:
    model = run.folder / "model"
    bits = osp("eval", model, "--data", TOKENS, "--bits", "16-16-16,4-4-4", "--data-tokens", MEASURED_TOKENS)
    loss, loss4 = (result["loss"] for result in bits["results"])
    kurtosis = osp("analyze", model, "--data", TOKENS, "--data-tokens", MEASURED_TOKENS)["excess_kurtosis"]
    hadamard, _ = divergence(model, "ffn-hadamard+rtn", 1)
    rotated, spread = divergence(model, "quarot+rtn", 3)
    row = {
        "stage": run.stage,
        "optimizer": run.optimizer,
        "rate": run.rate,
        "seed": run.seed,
        "tokens": json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])["tokens"],
        "loss": loss,
        "excess_kurtosis": kurtosis["mean"],
        "added_nats": loss4 - loss,
        "kl": divergence(model, "rtn", 1)[0],
        "kl_hadamard": hadamard,
        "kl_rotated": rotated,
        "kl_rotated_deviation": spread,
        "tax": hadamard - rotated,
        "tax_share": (hadamard - rotated) / hadamard,
        "version": bits["version"],
        "machine": bits["machine"],
        "command": bits["command"],
    }
    temporary = run.folder / "row.json.tmp"
    temporary.write_text(json.dumps(row, indent=1) + "\n")
    temporary.rename(run.folder / "row.json")


def best_rate(out: Path, stage: str, optimizer: str) -> float | None:
    """The rate of the lowest validation loss; None until the whole grid is measured."""
    source = STAGES[stage].get("rates_of", stage)
    rows = [Run(out, source, optimizer, rate, SEEDS[0]).row() for rate in STAGES[source]["rates"]]
    if any(row is None for row in rows):
        return None
    return min(rows, key=lambda row: row["loss"])["rate"]


def runs_of(out: Path, stage: str) -> list[Run]:
    """The runs of a stage that can be named so far, in order."""
    runs = [
        Run(out, stage, optimizer, rate, SEEDS[0])
        for rate in STAGES[stage].get("rates", [])
        for optimizer in OPTIMIZERS
    ]
    best = {optimizer: best_rate(out, stage, optimizer) for optimizer in OPTIMIZERS}
    seeds = SEEDS[1:] if "rates" in STAGES[stage] else SEEDS
    for seed in seeds:
        runs += [Run(out, stage, name, rate, seed) for name, rate in best.items() if rate is not None]
    # Adam at OSP's rate, for the comparison at one rate.
    if best["osp"] is not None:
        same = [Run(out, stage, "adam", best["osp"], seed) for seed in SEEDS]
        runs += [run for run in same if run.name not in {other.name for other in runs}]
    return runs


def print_table(out: Path, stages: list[str]) -> None:
    names = ["stage", "optimizer", "rate", "seed", "loss", "kurtosis", "added nats", "KL", "KL, Hadamard"]
    print(f"| {' | '.join([*names, 'KL, rotated', 'tax', 'share'])} |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for stage in stages:
        for run in runs_of(out, stage):
            row = run.row()
            if not row:
                continue
            print(
                f"| {stage} | {row['optimizer']} | {row['rate']:g} | {row['seed']} | {row['loss']:.3f}"
                f" | {row['excess_kurtosis']:.2f} | {row['added_nats']:.4f} | {row['kl']:.4f}"
                f" | {row['kl_hadamard']:.4f} | {row['kl_rotated']:.4f} ± {row['kl_rotated_deviation']:.4f}"
                f" | {row['tax']:.4f} | {100 * row['tax_share']:.1f} % |"
            )


class Queue:
    """Hands out the next run; a run that failed is not tried again in this call."""

    def __init__(self, out: Path, stages: list[str]):
        self.out, self.stages = out, stages
        self.lock = threading.Lock()
        self.taken: set[str] = set()
        self.failed: list[str] = []

    def next(self) -> Run | None:
        with self.lock:
            for stage in self.stages:
                for run in runs_of(self.out, stage):
                    if run.name not in self.taken and run.state() != "measured":
                        self.taken.add(run.name)
                        return run
        return None

    def work(self) -> None:
        while run := self.next():
            state = run.state()
            print(f"race: {run.name} ({state})", file=sys.stderr, flush=True)
            try:
                if state != "trained":
                    train(run)
                measure(run)
            except RuntimeError as error:
                print(f"race: {run.name} FAILED: {error}", file=sys.stderr, flush=True)
                self.failed.append(run.name)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument(
        "--stage", action="append", choices=list(STAGES), help="only this stage; may be repeated"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "race", help="folder of the runs")
    parser.add_argument("--table", action="store_true", help="print the table of measured runs and stop")
    parser.add_argument("--dry-run", action="store_true", help="print every run with its state and stop")
    options = parser.parse_args()
    stages = options.stage or list(STAGES)
    if options.table:
        print_table(options.out, stages)
        return 0
    if options.dry_run:
        for stage in stages:
            for run in runs_of(options.out, stage):
                print(f"{run.state():12} {run.name}")
        return 0
    for needed, how in ((OSP, "scripts/build.sh osp"), (TOKENS / "index.json", "scripts/demo.sh")):
        if not needed.exists():
            print(f"race: {needed} is missing; run {how} first", file=sys.stderr)
            return 2
    queue = Queue(options.out, stages)
    workers = [threading.Thread(target=queue.work) for _ in range(options.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return 1 if queue.failed else 0


if __name__ == "__main__":
    sys.exit(main())
