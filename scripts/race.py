#!/usr/bin/env python3
"""Runs the races of docs/evidence-rows.md one after the other, and prints their table.

    scripts/race.py [--jobs N] [--stage NAME] [--out FOLDER] [--table | --export FILE | --dry-run]

Each job runs at the lowest priority on one thread. The script knows what is next: a run that was interrupted
resumes from its last checkpoint, a finished one is measured, a measured one is left alone; so the same call
continues after every stop. Within a stage every optimizer first tries learning rates with the first seed; the
rate with the lowest validation loss, and nothing else, then runs with the other seeds.

FOLDER (default runs/race) gets a folder per run, with row.json when it is measured: the numbers of the table
and the command that printed them. Rows that docs/evidence.jsonl has already count as measured, so that a new
machine goes on where the last one stopped (--anew ignores them). The environment's OSP names another program
than build/release/osp: a copy can run on while the project is rebuilt.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(os.environ.get("OSP", ROOT / "build" / "release" / "osp"))
TOKENS = ROOT / "runs" / "demo" / "tokens"
GRID = [3e-4, 6e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 6e-3]  # the same for both optimizers
SEEDS = [1, 2, 3]
MEASURED_TOKENS = 65536
COST_TOKENS = 16384  # of what readers and generators cost, attribution and other bases
DECAY = {"optim.weight_decay": 0.1}
QK_NORM = {"model.qk_norm": "true"}


@dataclass(frozen=True)
class Stage:
    """Runs of one length of one kind of model.

    search: "grid" tries every rate of GRID with the first seed; "around" starts at the best rate of `before`
    and its two neighbours in GRID, and goes on outwards while the best is the outermost tried; "inner" tries
    the inner rates of GRID; "none" takes the best rate of `before`. The best rate then runs with the other
    seeds. `recipe` has {} for the optimizer.
    """

    steps: int
    search: str = "grid"
    before: str = ""
    recipe: str = "recipes/race/tiny-{}.toml"
    settings: dict = field(default_factory=dict)
    seeds: int = len(SEEDS)


# The 7M demo at steps of 2,048 tokens; the tiny model made deep and narrow, at steps of 1,024.
SEVEN = "recipes/demo-7m-{}.toml"
DEEP = {
    "model.layers": 16,
    "model.width": 192,
    "model.heads": 3,
    "model.context": 256,
    "train.batch_tokens": 1024,
}

# In the order in which they run.
STAGES = {
    "tiny-2000": Stage(2000),
    "tiny-2000-decay": Stage(2000, settings=DECAY),
    "tiny-2000-qknorm": Stage(2000, settings=QK_NORM),
    "tiny-5000": Stage(5000),
    "tiny-10000": Stage(10000),
    "tiny-50000": Stage(50000, search="around", before="tiny-10000"),
    "tiny-100000": Stage(100000, search="none", before="tiny-50000"),
    "7m-1500": Stage(1500, search="inner", recipe=SEVEN),
    "tiny-10000-decay": Stage(10000, search="around", before="tiny-2000-decay", settings=DECAY),
    "tiny-10000-qknorm": Stage(10000, search="around", before="tiny-2000-qknorm", settings=QK_NORM),
    "7m-40000": Stage(40000, search="none", before="7m-1500", recipe=SEVEN, seeds=1),
    "deep-40000": Stage(40000, search="none", before="tiny-50000", settings=DEEP, seeds=1),
}
OPTIMIZERS = ["adam", "osp"]


PUBLISHED: dict[str, dict] = {}  # rows of docs/evidence.jsonl by the name of their run


def run_name(stage: str, optimizer: str, rate: float, seed: int) -> str:
    return f"{stage}/{optimizer}-{rate:g}-seed{seed}"


def read_published(path: Path) -> None:
    for row in map(json.loads, path.read_text().splitlines()):
        PUBLISHED[run_name(row["stage"], row["optimizer"], row["rate"], row["seed"])] = row


class Run:
    """One training run: an optimizer, a rate and a seed of a stage."""

    def __init__(self, out: Path, stage: str, optimizer: str, rate: float, seed: int):
        self.stage, self.optimizer, self.rate, self.seed = stage, optimizer, rate, seed
        self.name = run_name(stage, optimizer, rate, seed)
        self.folder = out / self.name

    def row(self) -> dict | None:
        path = self.folder / "row.json"
        return json.loads(path.read_text()) if path.exists() else PUBLISHED.get(self.name)

    def state(self) -> str:
        if self.row():
            return "measured"
        if (self.folder / "model" / "config.json").exists():
            return "trained"
        return "interrupted" if any(self.folder.glob("step-*")) else "not begun"


def osp(*words: object) -> dict:
    """Runs `osp` on one thread at the lowest priority and returns what it prints."""
    command = ["nice", "-n", "19", str(PROGRAM), *map(str, words), "--quiet", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
    if result.returncode:
        raise RuntimeError(f"status {result.returncode}: {' '.join(command)}")
    return json.loads(result.stdout)


def train(run: Run) -> None:
    stage = STAGES[run.stage]
    words = ["train", stage.recipe.format(run.optimizer), "--out", run.folder]
    for key, value in {
        "optim.lr": run.rate,
        "run.seed": run.seed,
        "train.steps": stage.steps,
        "train.checkpoint_every": min(stage.steps, 5000),
        "data.path": TOKENS,
        **stage.settings,
    }.items():
        words += ["--set", f"{key}={value}"]
    osp(*words, *(["--resume"] if run.state() == "interrupted" else []))


def divergence(model: Path, method: str, seeds: int) -> tuple[float, float]:
    """KL in nats a token at 4-4-4 by the method: mean and standard deviation over seeds of rotations."""
    result = osp("quantize", model, "--method", method, "--bits", "4-4-4", "--report", "--data", TOKENS,
                 "--data-tokens", MEASURED_TOKENS, "--seeds", seeds)  # fmt: skip
    values = [run["measured"]["kl_divergence"] for run in result["runs"]]
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def measure(run: Run) -> None:
    model = run.folder / "model"
    bits = osp("eval", model, "--data", TOKENS, "--bits", "16-16-16,4-4-4", "--data-tokens", MEASURED_TOKENS)
    loss, loss4 = (result["loss"] for result in bits["results"])
    analysis = osp("analyze", model, "--data", TOKENS, "--data-tokens", MEASURED_TOKENS,
                   "--cost-tokens", COST_TOKENS)  # fmt: skip
    cost = analysis["cost"]
    hadamard, _ = divergence(model, "ffn-hadamard+rtn", 1)
    rotated, spread = divergence(model, "quarot+rtn", 3)
    row = {
        "stage": run.stage,
        "optimizer": run.optimizer,
        "rate": run.rate,
        "seed": run.seed,
        "tokens": json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])["tokens"],
        "loss": loss,
        "excess_kurtosis": analysis["excess_kurtosis"]["mean"],
        "added_nats": loss4 - loss,
        "kl": divergence(model, "rtn", 1)[0],
        "kl_hadamard": hadamard,
        "kl_rotated": rotated,
        "kl_rotated_deviation": spread,
        "tax": hadamard - rotated,
        "tax_share": (hadamard - rotated) / hadamard,
        "readers": cost["outlier_tax"]["readers"],
        "generators": cost["outlier_tax"]["generators"],
        "sites": cost["attribution"]["sites"],
        "noise_gain": mean(one["noise_gain"] for one in cost["linears"]),
        "bases": cost["bases"],
        "version": bits["version"],
        "machine": bits["machine"],
        "command": bits["command"],
    }
    temporary = run.folder / "row.json.tmp"
    temporary.write_text(json.dumps(row, indent=1) + "\n")
    temporary.rename(run.folder / "row.json")


def searched(out: Path, stage: str, optimizer: str) -> tuple[list[float], float | None]:
    """The rates to try with the first seed as far as they are known, and the best once all are measured."""
    plan = STAGES[stage]
    before = searched(out, plan.before, optimizer)[1] if plan.before else None
    if plan.before and before is None:
        return [], None
    if plan.search == "none":
        return [], before
    if plan.search == "grid":
        tried = range(len(GRID))
    elif plan.search == "inner":
        tried = range(GRID.index(1e-3), GRID.index(3e-3) + 1)
    else:
        at = GRID.index(before)
        tried = range(max(0, at - 1), min(len(GRID), at + 2))
    while True:
        rows = {i: Run(out, stage, optimizer, GRID[i], SEEDS[0]).row() for i in tried}
        rates = [GRID[i] for i in tried]
        if any(row is None for row in rows.values()):
            return rates, None
        best = min(rows, key=lambda i: rows[i]["loss"])
        if best == tried[0] and best > 0:
            tried = range(best - 1, tried.stop)
        elif best == tried[-1] and best + 1 < len(GRID):
            tried = range(tried.start, best + 2)
        else:
            return rates, GRID[best]


def runs_of(out: Path, stage: str) -> list[Run]:
    """The runs of a stage that can be named so far, in order."""
    search = {optimizer: searched(out, stage, optimizer) for optimizer in OPTIMIZERS}
    best = {optimizer: rate for optimizer, (_, rate) in search.items() if rate is not None}
    names = []
    longest = max(len(rates) for rates, _ in search.values())
    for i in range(longest):
        names += [(o, rates[i], SEEDS[0]) for o, (rates, _) in search.items() if i < len(rates)]
    seeds = SEEDS[: STAGES[stage].seeds]
    names += [(optimizer, rate, seed) for seed in seeds for optimizer, rate in best.items()]
    if "osp" in best and not STAGES[stage].settings:
        # Adam at OSP's rate, for the comparison at one rate.
        names += [("adam", best["osp"], seed) for seed in seeds]
    return [Run(out, stage, *name) for name in dict.fromkeys(names)]


COLUMNS = ["stage", "optimizer", "rate", "seed", "loss", "kurtosis", "added nats", "KL", "KL, Hadamard"]
COLUMNS += ["KL, rotated", "tax", "share", "share of readers"]


def table_row(row: dict) -> str:
    """A measured run as a line of the tables in docs/evidence-rows.md."""
    readers = f"{100 * row['readers']['share']:.1f} %" if "readers" in row else "–"
    return (
        f"| {row['stage']} | {row['optimizer']} | {row['rate']:g} | {row['seed']} | {row['loss']:.3f}"
        f" | {row['excess_kurtosis']:.2f} | {row['added_nats']:.4f} | {row['kl']:.4f}"
        f" | {row['kl_hadamard']:.4f} | {row['kl_rotated']:.4f} ± {row['kl_rotated_deviation']:.4f}"
        f" | {row['tax']:.4f} | {100 * row['tax_share']:.1f} % | {readers} |"
    )


def measured_rows(out: Path, stages: list[str]) -> list[dict]:
    rows = [run.row() for stage in stages for run in runs_of(out, stage)]
    return [row for row in rows if row]


def print_table(rows: list[dict]) -> None:
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---|---|" + "---:|" * (len(COLUMNS) - 2))
    for row in rows:
        print(table_row(row))


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
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the rows as JSON lines and stop")
    parser.add_argument("--dry-run", action="store_true", help="print every run with its state and stop")
    parser.add_argument("--anew", action="store_true", help="measure what docs/evidence.jsonl has as well")
    options = parser.parse_args()
    if not options.anew:
        read_published(ROOT / "docs" / "evidence.jsonl")
    stages = options.stage or list(STAGES)
    if options.table:
        print_table(measured_rows(options.out, stages))
        return 0
    if options.export:
        rows = measured_rows(options.out, stages)
        for row in rows:  # whatever copy of the program measured it
            row["command"] = "osp " + row["command"].split(" ", 1)[1]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        text = text.replace(str(options.out.resolve()), "runs/race").replace(f"{ROOT}/", "")
        options.export.write_text(text)
        return 0
    if options.dry_run:
        for stage in stages:
            for run in runs_of(options.out, stage):
                print(f"{run.state():12} {run.name}")
        return 0
    for needed, how in ((PROGRAM, "scripts/build.sh osp"), (TOKENS / "index.json", "scripts/demo.sh")):
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
