#!/usr/bin/env python3
"""Runs the races of docs/evidence-rows.md one after the other, and prints their table.

    scripts/race.py [--jobs N] [--stage NAME] [--out FOLDER] [--table | --export FILE | --dry-run]

Each job runs at the lowest priority on one thread. The script knows what is next: a run that was interrupted
resumes from its last checkpoint, a finished one is measured, a measured one is left alone; so the same call
continues after every stop. Within a stage every optimizer first tries learning rates with the first seed; the
rate with the lowest validation loss, and nothing else, then runs with the other seeds.

FOLDER (default runs/race) gets a folder per run, with row.json when it is measured: the numbers of the table
and the command that printed them. The models after 1, 2, 5, 10, 20 and 50 % of a run's steps stay in its
folder `along`; those of the best rates are measured too, on a quarter of the tokens, and their rows have the
step as `at`. A stage whose tokens are not there is left out, and named. Rows that docs/evidence.jsonl has
already count as measured, so that a new machine goes on where the last one stopped (--anew ignores them).
The environment's OSP names another program than build/release/osp: a copy runs on while that is rebuilt.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(os.environ.get("OSP", ROOT / "build" / "release" / "osp"))
TOKENS = ROOT / "runs" / "demo" / "tokens"
CORPUS = "runs/corpus/tokens"  # of scripts/corpus.sh: English and code
GRID = [3e-4, 6e-4, 1e-3, 1.5e-3, 2e-3, 3e-3, 6e-3]  # the same for both optimizers
SEEDS = [1, 2, 3]
MEASURED_TOKENS = 65536
COST_TOKENS = 16384  # of what readers and generators cost, attribution and other bases
READERS = ("attention_input", "mlp_input")  # inputs of the layers that read the residual stream
ALONG = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]  # of a run's steps: where it is measured on the way
DECAY = {"optim.weight_decay": 0.1}
QK_NORM = {"model.qk_norm": "true"}


OPTIMIZERS = ["adam", "osp"]
PLAIN = {"model.norm": "rms", "model.embedding_projection": "false"}
# The rows of the paper's ablation between Adam and OSP (recipes/ablation), as settings of OSP's recipe.
ABLATION = {
    "muon-without-adam": {**PLAIN, "optim.name": "muon"},
    "muon": PLAIN,
    "muon-ssnorm": {"model.embedding_projection": "false"},
    "muon-embproj": {"model.norm": "rms"},
}


@dataclass(frozen=True)
class Stage:
    """Runs of one length of one kind of model.

    search: "grid" tries every rate of GRID with the first seed, "inner" the inner rates of GRID, "around" the
    best rate of `before` and its two neighbours in GRID; the last two go on outwards while the best is the
    outermost tried. "none" takes the best rate of `before` (that of the optimizer `rate_of`, if named),
    `times` a number; "given" takes the rates of `given`. The best rate then runs with the other seeds.

    optimizers: OPTIMIZERS or rows of ABLATION. `recipe` has {} for adam or osp. `tokens` is a folder, if not
    the demo's.
    """

    steps: int
    search: str = "grid"
    before: str = ""
    recipe: str = "recipes/race/tiny-{}.toml"
    settings: dict = field(default_factory=dict)
    seeds: int = len(SEEDS)
    optimizers: tuple = tuple(OPTIMIZERS)
    rate_of: str = ""
    times: float = 1
    given: dict = field(default_factory=dict)
    tokens: str = ""


# The 7M demo at steps of 2,048 tokens; the tiny model made deep and narrow, at steps of 1,024; 30M parameters
# at steps of 8,192.
SEVEN = "recipes/demo-7m-{}.toml"
DEEP = {
    "model.layers": 16,
    "model.width": 192,
    "model.heads": 3,
    "model.context": 256,
    "train.batch_tokens": 1024,
}
THIRTY = "recipes/demo-long-{}.toml"

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
    "tiny-10000-fast": Stage(
        10000, search="none", before="tiny-10000", optimizers=("adam",), rate_of="osp", times=5
    ),
    "tiny-10000-ablation": Stage(
        10000, search="none", before="tiny-10000", optimizers=tuple(ABLATION), rate_of="osp"
    ),
    "tiny-10000-context": Stage(10000, search="around", before="tiny-10000", settings={"model.context": 512}),
    "tiny-50000-corpus": Stage(50000, search="none", before="tiny-50000", tokens=CORPUS),
    "tiny-200000": Stage(200000, search="none", before="tiny-100000"),
    "30m-16000": Stage(
        16000, search="given", given={"adam": 1e-3, "osp": 3e-3}, recipe=THIRTY, seeds=1, tokens=CORPUS
    ),
}


KEYS = ("stage", "optimizer", "rate", "seed")
PUBLISHED: dict[str, dict] = {}  # rows of docs/evidence.jsonl by the name of their run


def run_name(stage: str, optimizer: str, rate: float, seed: int, at: int = 0) -> str:
    return f"{stage}/{optimizer}-{rate:g}-seed{seed}" + (f"/along/step-{at}" if at else "")


def read_published(path: Path) -> None:
    for row in map(json.loads, path.read_text().splitlines()):
        PUBLISHED[run_name(*(row[key] for key in KEYS), row.get("at", 0))] = row


class Run:
    """One training run: an optimizer, a rate and a seed of a stage; or its model at a step of it."""

    def __init__(self, out: Path, stage: str, optimizer: str, rate: float, seed: int, at: int = 0):
        self.stage, self.optimizer, self.rate, self.seed, self.at = stage, optimizer, rate, seed, at
        self.name = run_name(stage, optimizer, rate, seed, at)
        self.folder = out / self.name
        self.trained = out / run_name(stage, optimizer, rate, seed)  # the folder that the trainer writes

    def row(self) -> dict | None:
        path = self.folder / "row.json"
        return json.loads(path.read_text()) if path.exists() else PUBLISHED.get(self.name)

    def state(self) -> str:
        if self.row():
            return "measured"
        if (self.folder / "model" / "config.json").exists():
            return "trained"
        # One that was killed before its first checkpoint begins anew with --resume, and only with it.
        return "interrupted" if (self.folder / "recipe.json").exists() else "not begun"

    def data(self) -> Path:
        """Token shards that it is trained and measured with."""
        plan = STAGES.get(self.stage)
        return ROOT / plan.tokens if plan and plan.tokens else TOKENS

    def tokens(self) -> int:
        logged = map(json.loads, (self.trained / "metrics.jsonl").read_text().splitlines())
        last = [line for line in logged if line.get("tokens")][-1]  # samples have none
        return last["tokens"] * self.at // last["step"] if self.at else last["tokens"]

    def along(self) -> list["Run"]:
        """Its models on the way that were kept or are published."""
        name = (self.stage, self.optimizer, self.rate, self.seed)
        every = [Run(self.trained.parents[1], *name, at) for at in along(STAGES[self.stage].steps)]
        return [point for point in every if point.state() != "not begun"]


def osp(*words: object) -> dict:
    """Runs `osp` on one thread at the lowest priority and returns what it prints."""
    command = ["nice", "-n", "19", str(PROGRAM), *map(str, words), "--quiet", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
    if result.returncode:
        raise RuntimeError(f"status {result.returncode}: {' '.join(command)}")
    return json.loads(result.stdout)


def train_words(run: Run) -> list:
    """The call of `osp` that trains it."""
    stage = STAGES[run.stage]
    adam = run.optimizer == "adam"
    words = ["train", stage.recipe.format("adam" if adam else "osp"), "--out", run.folder]
    for key, value in {
        "optim.lr": run.rate,
        "run.seed": run.seed,
        "train.steps": stage.steps,
        "train.checkpoint_every": checkpoint_every(stage.steps),
        "train.keep_checkpoints": 5,
        "data.path": run.data(),
        **stage.settings,
        **ABLATION.get(run.optimizer, {}),
    }.items():
        words += ["--set", f"{key}={value}"]
    return words


def checkpoint_every(steps: int) -> int:
    """All of ALONG are multiples of it."""
    return max(1, round(min(ALONG) * steps))


def along(steps: int) -> list[int]:
    """Steps after which the model of a run is kept."""
    return [round(share / min(ALONG)) * checkpoint_every(steps) for share in ALONG]


# A checkpoint has these besides the model, and they are large or speak of files that are not kept.
LEFT_OUT = ["optimizer.safetensors", "trainer.json", "manifest.json"]


def keep(checkpoint: Path, folder: Path) -> None:
    """Links the model of a checkpoint into folder/model: it stays when the trainer removes the checkpoint."""
    if (folder / "model").exists() or not (checkpoint / "manifest.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(
            checkpoint, temporary, copy_function=os.link, ignore=shutil.ignore_patterns(*LEFT_OUT)
        )
    except (OSError, shutil.Error):
        return  # the trainer removed it meanwhile
    temporary.rename(folder / "model")


def keep_along(run: Run, ended: threading.Event) -> None:
    """Keeps the models on the way of a run while it trains, and once more at its end."""
    last = False
    while not last:
        last = ended.wait(0.5)
        for step in along(STAGES[run.stage].steps):
            keep(run.folder / f"step-{step}", run.folder / "along" / f"step-{step}")


def train(run: Run) -> None:
    ended = threading.Event()
    keeper = threading.Thread(target=keep_along, args=(run, ended))
    keeper.start()
    try:
        osp(*train_words(run), *(["--resume"] if run.state() == "interrupted" else []))
    finally:
        ended.set()
        keeper.join()
    kept = [point.at for point in run.along()]
    if missed := [step for step in along(STAGES[run.stage].steps) if step not in kept]:
        print(f"race: {run.name}: nothing was kept of the steps {missed}", file=sys.stderr, flush=True)


def rounded(run: Run, tokens: int, method: str, seeds: int = 1) -> tuple[list[float], float]:
    """At 4-4-4 by the method: KL in nats a token for each seed of rotations, and the mean of added nats."""
    words = ["--method", method, "--bits", "4-4-4", "--seeds", seeds, "--report"]
    words += ["--data", run.data(), "--data-tokens", tokens]
    found = [one["measured"] for one in osp("quantize", run.folder / "model", *words)["runs"]]
    added = mean(log(one["perplexity"] / one["perplexity_16"]) for one in found)
    return [one["kl_divergence"] for one in found], added


def measure(run: Run, short: bool = False) -> None:
    """Writes row.json. `short`: on a quarter of the tokens, without the attribution, which takes longest."""
    model, tokens = run.folder / "model", MEASURED_TOKENS // (4 if short else 1)
    words = [model, "--data", run.data(), "--data-tokens", tokens]
    bits = osp("eval", *words, "--bits", "16-16-16,4-8-8,4-4-4")
    loss, loss8, loss4 = (result["loss"] for result in bits["results"])
    brief = ["--attribution-tokens", 0, "--sink-tokens", 0] if short else []
    analysis = osp("analyze", *words, "--cost-tokens", COST_TOKENS // (4 if short else 1), *brief)
    cost = analysis["cost"]
    [hadamard], added_hadamard = rounded(run, tokens, "ffn-hadamard+rtn")
    turned, _ = rounded(run, tokens, "quarot+rtn", 3)
    rotated = mean(turned)
    row = {
        **{key: getattr(run, key) for key in KEYS},
        **({"at": run.at} if run.at else {}),
        "tokens": run.tokens(),
        "measured_tokens": tokens,
        "loss": loss,
        "loss_4_8_8": loss8,
        "excess_kurtosis": analysis["excess_kurtosis"]["mean"],
        "added_nats": loss4 - loss,
        "added_nats_hadamard": added_hadamard,
        "kl": rounded(run, tokens, "rtn")[0][0],
        "kl_hadamard": hadamard,
        "kl_rotated": rotated,
        "kl_rotated_deviation": stdev(turned),
        "tax": hadamard - rotated,
        "tax_share": (hadamard - rotated) / hadamard,
        "readers": cost["outlier_tax"]["readers"],
        "generators": cost["outlier_tax"]["generators"],
        "readers_mean_share": mean(one["mean_share"] for one in cost["inputs"] if one["point"] in READERS),
        **({} if short else {"sites": cost["attribution"]["sites"]}),
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
    if plan.search == "given":
        return [], plan.given[optimizer]
    before = searched(out, plan.before, plan.rate_of or optimizer)[1] if plan.before else None
    if plan.before and before is None:
        return [], None
    if plan.search == "none":
        return [], before * plan.times
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
    """The runs of a stage that can be named so far, in order; then what was kept along the best ones."""
    plan = STAGES[stage]
    search = {optimizer: searched(out, stage, optimizer) for optimizer in plan.optimizers}
    best = {optimizer: rate for optimizer, (_, rate) in search.items() if rate is not None}
    names = []
    longest = max(len(rates) for rates, _ in search.values())
    for i in range(longest):
        names += [(o, rates[i], SEEDS[0]) for o, (rates, _) in search.items() if i < len(rates)]
    seeds = SEEDS[: plan.seeds]
    chosen = [(optimizer, rate, seed) for seed in seeds for optimizer, rate in best.items()]
    names += chosen
    if "osp" in best and not plan.settings and not plan.tokens:
        # Adam at OSP's rate, for the comparison at one rate.
        names += [("adam", best["osp"], seed) for seed in seeds]
    runs = [Run(out, stage, *name) for name in dict.fromkeys(names)]
    return runs + [point for name in chosen for point in Run(out, stage, *name).along()]


COLUMNS = ["stage", "optimizer", "rate", "seed", "loss", "loss, 4-8-8", "kurtosis", "token mean"]
COLUMNS += ["added nats", "added, Hadamard", "KL", "KL, Hadamard", "KL, rotated", "tax", "share"]
COLUMNS += ["share of readers"]


def table_row(row: dict) -> str:
    """A measured run as a line of the tables in docs/evidence-rows.md."""

    def cell(key: str, form: str, times: float = 1) -> str:
        return form.format(times * row[key]) if key in row else "–"  # older rows lack some

    readers = f"{100 * row['readers']['share']:.1f} %" if "readers" in row else "–"
    at = f" at {row['at']:,}" if "at" in row else ""
    cells = [row["stage"] + at, row["optimizer"], f"{row['rate']:g}", str(row["seed"])]
    cells += [cell("loss", "{:.3f}"), cell("loss_4_8_8", "{:.3f}"), cell("excess_kurtosis", "{:.2f}")]
    cells += [cell("readers_mean_share", "{:.0f} %", 100)]
    cells += [cell(key, "{:.4f}") for key in ("added_nats", "added_nats_hadamard", "kl", "kl_hadamard")]
    cells += [f"{row['kl_rotated']:.4f} ± {row['kl_rotated_deviation']:.4f}", cell("tax", "{:.4f}")]
    cells += [cell("tax_share", "{:.1f} %", 100), readers]
    return f"| {' | '.join(cells)} |"


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
                measure(run, short=run.at > 0)
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
    for stage in [name for name in stages if not (ROOT / STAGES[name].tokens).exists()]:
        print(
            f"race: {stage} is left out: {STAGES[stage].tokens} is missing; run scripts/corpus.sh first",
            file=sys.stderr,
        )
        stages.remove(stage)
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
